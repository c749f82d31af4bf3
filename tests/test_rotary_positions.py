# Copyright 2026 The optimum_pitome authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The example that compares places and keys of models with rotary embeddings, on tiny models with random weights."""

import functools
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import rotary_models
import rotary_positions
import torch
from PIL import Image
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model

from optimum_pitome import apply_pitome, cut_rotary, remove_pitome
from optimum_pitome.apply import layers_watched
from optimum_pitome.modeling.tokens import Tokens


#: Weights so large that attention is not even, and sees places.
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "initializer_range": 0.3}


def dinov2():
    config = Dinov2Config(**SIZES, mlp_ratio=2, image_size=56, patch_size=7, use_mask_token=False)
    return Dinov2Model(config).eval()


def bert():
    config = BertConfig(**SIZES, intermediate_size=64, vocab_size=90, max_position_embeddings=24)
    return BertModel(config).eval()


def pictures(count=6):
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (60, 70, 3), dtype=np.uint8)) for _ in range(count)]


def vision():
    model = rotary_models.rotary_dinov3(dinov2(), 56).eval()
    batches = [rotary_models.pixels([picture.resize((56, 56)) for picture in pictures()])]
    angles = functools.partial(rotary_positions.angles_of_patches, model)
    return rotary_positions.Subject(model, model.rope_embeddings, angles, batches, "keys before the rotation", 0)


def text():
    model = rotary_models.rotary_jina(bert(), 24).eval()
    mask = torch.ones(6, 24, dtype=torch.long)
    mask[3:, 18:] = 0
    batches = [{"input_ids": torch.randint(5, 90, (6, 24)), "attention_mask": mask}]
    angles = functools.partial(rotary_positions.angles_of_words, model)
    return rotary_positions.Subject(model, model.rotary_emb, angles, batches, "hidden states", 1)


SUBJECTS = pytest.mark.parametrize("make", [vision, text], ids=["vision", "text"])


@pytest.mark.parametrize(
    ("make", "convert", "inputs", "rotary"),
    [
        (dinov2, lambda model: rotary_models.rotary_dinov3(model, 56, 0), "pixels", "rope_embeddings"),
        (bert, lambda model: rotary_models.rotary_jina(model, 24), "ids", "rotary_emb"),
    ],
    ids=["vision", "text"],
)
@torch.no_grad()
def test_a_converted_model_is_the_one_before_but_for_places(make, convert, inputs, rotary):
    teacher = make()
    table = teacher.embeddings.position_embeddings
    table = table.weight if inputs == "ids" else table
    table[..., :, :] = table[..., :1, :].clone()  # every place is alike
    student = convert(teacher).eval()
    batch = {
        "pixels": lambda: rotary_models.pixels([picture.resize((56, 56)) for picture in pictures()]),
        "ids": lambda: {"input_ids": torch.randint(5, 90, (2, 24))},
    }[inputs]()
    rotated = student(**batch).last_hidden_state
    getattr(student, rotary).register_forward_hook(
        lambda module, arguments, output: (torch.ones_like(output[0]), torch.zeros_like(output[1]))
    )
    expected = teacher(**batch).last_hidden_state
    torch.testing.assert_close(student(**batch).last_hidden_state, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(rotated, expected, atol=1e-4)


def test_the_angles_are_those_of_the_model():
    for subject, size in ((vision(), 64), (text(), 24)):
        with torch.no_grad():
            seen = []
            subject.rotary.register_forward_hook(lambda module, arguments, output: seen.extend(output))
            subject.embed()
        angles = subject.angles(size)
        for found, turn in zip(seen, (torch.cos, torch.sin)):
            torch.testing.assert_close(found.reshape(-1, *angles.shape)[0], turn(angles), atol=1e-5, rtol=1e-5)


def test_distilling_brings_the_vectors_closer():
    torch.manual_seed(0)
    teacher = dinov2()
    torch.nn.init.normal_(teacher.embeddings.position_embeddings)
    student = rotary_models.rotary_dinov3(teacher, 56)
    crops = rotary_models.random_crops(pictures().__getitem__, 6, 56, 4)
    batch = next(crops)

    @torch.no_grad()
    def distance():
        found = rotary_models.without_registers(student, student.eval()(**batch).last_hidden_state)
        return rotary_models._distance(found, teacher(**batch).last_hidden_state, None)

    before = distance()
    rotary_models.distil(student, teacher, itertools.repeat(batch), 20)
    assert distance() < 0.8 * before
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_windows_are_cut_and_padded():
    seen = []

    def tokenize(pieces, truncation, max_length, padding, return_tensors):
        seen.extend(pieces)
        assert truncation and padding and max_length == 8
        ones = torch.ones(len(pieces), 8, dtype=torch.long)
        return {"input_ids": ones, "attention_mask": ones, "token_type_ids": ones}

    batch = next(rotary_models.random_windows(tokenize, ["a b c d e f g h i j", "k"], 8, 5))
    assert set(batch) == {"input_ids", "attention_mask"}
    assert all("a b c d e f g h i j".endswith(piece) or piece == "k" for piece in seen)


def grouped():
    """Two special tokens, then six tokens that became three: 2, 3, 5 and 6 in the third, which 3 survived."""
    rows = torch.tensor([[0, 1, 2, 2, 3, 2, 2, 4]])
    return Tokens(rows=rows, sizes=torch.tensor([[1.0, 1, 4, 1, 1]]), positions=torch.tensor([[0, 1, 3, 4, 7]]))


def test_places_by_hand():
    angles = torch.arange(6.0)[:, None] * torch.tensor([0.5, 0.01])
    embeddings = (angles.cos(), angles.sin())
    means = [(0 + 1 + 3 + 4) / 4, 2, 5]
    cos, sin = rotary_positions.mean_place(lambda number: angles)(embeddings, grouped())
    expected = torch.tensor(means)[:, None] * torch.tensor([0.5, 0.01])
    torch.testing.assert_close(cos, expected.cos()[None, None])
    torch.testing.assert_close(sin, expected.sin()[None, None])
    cos, sin = rotary_positions.angle_mean(embeddings, grouped())
    torch.testing.assert_close(cos**2 + sin**2, torch.ones_like(cos))
    members = angles[[0, 1, 3, 4]]
    turned = torch.atan2(members.sin().mean(dim=0), members.cos().mean(dim=0))
    torch.testing.assert_close(torch.atan2(sin, cos)[0, 0, 0], turned)
    random = rotary_positions.random_place(embeddings, grouped())
    for found, today in zip(random, cut_rotary(embeddings, grouped())):
        assert torch.equal(found[0, 0, 1:], today[0, 0, 1:])  # what has not merged stays


def test_the_place_of_the_largest_by_hand():
    largest = rotary_positions.LargestMember()
    plan = SimpleNamespace(assignment=torch.tensor([[0, 1, 1, 2]]), kept=torch.tensor([[0, 2, 3]]), num_kept=3)
    largest.watch(SimpleNamespace(plan=plan, tokens=Tokens()))
    assert largest.places.tolist() == [[0, 2, 3]]  # of two equal ones, the survivor
    largest.watch(SimpleNamespace(plan=None, tokens=Tokens()))
    plan = SimpleNamespace(assignment=torch.tensor([[0, 1, 1]]), kept=torch.tensor([[0, 2]]), num_kept=2)
    largest.watch(SimpleNamespace(plan=plan, tokens=Tokens(sizes=torch.tensor([[1.0, 2, 1]]))))
    assert largest.places.tolist() == [[0, 2]]  # the larger one, though the other survived


@SUBJECTS
@torch.no_grad()
def test_the_survivors_place_is_what_the_package_does(make):
    torch.manual_seed(0)
    subject = make()
    settings = {"ratio": 0.7, "metric": "keys"}
    seen = []
    with rotary_positions.merging(subject.model, settings, cut=cut_rotary):
        found = subject.embed()
        with layers_watched(subject.model, seen.append):
            subject.embed()
    before = [record.features for record in seen]
    apply_pitome(subject.model, settings)
    assert torch.equal(found, subject.embed())
    seen.clear()
    with rotary_positions.merging(subject.model, settings, rotated=True):
        with layers_watched(subject.model, seen.append):
            subject.embed()
    assert not torch.allclose(seen[0].features, before[0])  # what is compared
    assert torch.equal(subject.embed(), found)  # nothing is left of it
    assert not any("compared_keys" in vars(module) for module in subject.model.modules())


@SUBJECTS
def test_every_variant_is_measured_and_read_again(make, tmp_path):
    torch.manual_seed(0)
    subject = make()
    subject.head, subject.classified = (lambda embeddings: embeddings.argmax(axis=1)), np.ones(6, dtype=bool)
    path = tmp_path / "found.json"
    found = rotary_positions.measure(subject, [1.3, 1.6], path)
    names = list(subject.variants())
    assert len(found) == 2 + 2 * len(names) and len(names) == 7
    assert max(found["dense"]["loss"]) < 1e-5 < min(found["no rotation"]["loss"])
    assert len({json.dumps(found[f"1.6 {name}"]["loss"]) for name in names}) == len(names)
    found["1.3 mean place"] = found["dense"]
    path.write_text(json.dumps(found))
    assert rotary_positions.measure(subject, [1.3], path) == found
    printed = rotary_positions.table(found, [1.3, 1.6], subject.classified).splitlines()
    assert len(printed) == 2 + 2 * len(names)
    row = next(line for line in printed if line.startswith("| 1.3 × | mean place |")).split(" | ")
    assert row[2] == "0.0000" and row[3].startswith("-") and row[-1] == "100.0 % |"
    remove_pitome(subject.model)


def test_samples_alternate_between_the_halves():
    today = {"loss": [0.0] * 40, "class": [0] * 40}
    other = {"loss": [0.1, 0.3] * 20, "class": [0, 1] * 20}
    found = {"dense": today, f"2.0 {rotary_positions.TODAY}": today, "2.0 mean place": other}
    (line,) = [
        line for line in rotary_positions.table(found, [2.0], np.ones(40, dtype=bool)).splitlines() if "mean" in line
    ]
    assert "+0.1000 ± 0.0000 | +0.3000 ± 0.0000 | 0.000 | 50.0 %" in line
