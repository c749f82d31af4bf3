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

"""The search for ratios: what it finds, what it keeps, how it goes on after an interruption."""

import json

import pytest
import torch
from training.tiny import Pictures, tiny_vit
from transformers import BertModel, ViTModel
from zoo.text import bert_config, text_inputs
from zoo.vit import vit_config

from optimum_pitome import PiToMeConfig, apply_pitome, pitome_summary, tune_ratios
from optimum_pitome.analysis.loss import Samples, set_apart
from optimum_pitome.modeling.rewrite import rewritten_encoders
from optimum_pitome.tuning.search import STARTS, import_cma, search_ratios
from optimum_pitome.tuning.space import SearchSpace


def lively(model):
    """Biases and LayerNorms like those of a trained model, so that features differ between samples."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def vit():
    torch.manual_seed(0)
    return lively(ViTModel(vit_config(), add_pooling_layer=False))


def bert():
    torch.manual_seed(0)
    return lively(BertModel(bert_config(), add_pooling_layer=False))


def kept(model) -> list[float]:
    (encoder,) = rewritten_encoders(model)
    return [1 - spec.ratio.removed_numerator / spec.ratio.removed_denominator for spec in encoder.pitome.specs]


def only_the_first_layer(model):
    """A distance that punishes what the first layer removes, and nothing else."""
    return lambda merged, dense, inputs: torch.full((len(inputs["pixel_values"]),), 1.0 - kept(model)[0])


def test_ratios_are_for_the_pictures_at_hand():
    model = lively(tiny_vit(image_size=64))
    inputs = [{"pixel_values": Pictures(8).pixels, "interpolate_pos_encoding": True}]
    config = tune_ratios(model, inputs, 1.3, max_settings=8, progress=False)
    assert config.image_size == 32 and config.ratio is not None
    summary = pitome_summary(model)
    assert summary.tokens[0] == 65 and summary.flops_ratio == pytest.approx(1.3, abs=0.03)
    config = tune_ratios(model, inputs, num_tokens=40, max_settings=8, progress=False)
    assert config.image_size == 32 and pitome_summary(model).tokens[-1] == 41


def test_it_finds_the_layer_that_must_not_merge():
    model = apply_pitome(vit(), PiToMeConfig(0.9, metric="hidden_states"))
    model.train().layers[0].eval()  # frozen
    batches = [{"pixel_values": Pictures(16).pixels}]
    config = tune_ratios(
        model, batches, 1.25, distance=only_the_first_layer(model), max_settings=60, progress=False, seed=1
    )
    assert model.training and not model.layers[0].training and config.metric == "hidden_states"
    assert PiToMeConfig.from_value(model.config.pitome) == config
    space = SearchSpace(vit(), 1.25)
    profiles = [space.profile(removed)[0] for removed in STARTS.values()]
    assert kept(model)[0] >= max(profiles) and kept(model)[0] > 0.98
    assert pitome_summary(model).flops_ratio >= 1.25


@pytest.mark.parametrize("make", [lambda: lively(tiny_vit()), bert], ids=["logits", "features"])
def test_it_is_no_worse_than_the_best_profile_on_samples_it_did_not_see(make):
    settings = {"ratio": 0.8, "weighted_by": "sizes", "keep_norm": 0.0}  # no other means to start from
    model = apply_pitome(make(), settings)
    text = hasattr(model, "encoder")
    inputs = text_inputs(8) if text else {"pixel_values": Pictures(8).pixels}
    length = 24 if text else None
    config = tune_ratios(model, [inputs], 1.15, sequence_length=length, max_settings=30, progress=False)
    seen, held = (Samples(model, part) for part in set_apart([inputs], 3))
    assert (len(seen), len(held)) == (6, 2)
    apply_pitome(model, config)
    found = held.losses().mean()
    profiles = []
    space = SearchSpace(apply_pitome(model, settings), 1.15, sequence_length=length)
    for removed in STARTS.values():
        apply_pitome(model, space.config(space.profile(removed)))
        profiles.append((6 * seen.losses().mean() + 2 * held.losses().mean(), held.losses().mean()))
    assert found <= min(profiles)[1] + 1e-6


@pytest.mark.parametrize(
    "make, settings, means",
    [
        (tiny_vit, {}, [("attention", 0), ("sizes", 0.5), ("sizes", 1), ("attention", 0.5), ("attention", 1)]),
        (tiny_vit, {"weighted_by": "sizes"}, [("sizes", 0.5), ("sizes", 1)]),
        (tiny_vit, {"keep_norm": 0.2}, [("attention", 0.2)]),
        (tiny_vit, {"algorithm": "random"}, []),
        (tiny_vit, {"algorithm": "tofu", "importance": 0.5}, [("attention", 0)]),
        (tiny_vit, {"importance": 0}, [("sizes", 0.5), ("sizes", 1)]),
        (tiny_vit, {"preset": "official", "importance": 0.5}, []),
        (bert, {}, [("sizes", 0), ("attention", 0.5), ("attention", 1), ("sizes", 0.5), ("sizes", 1)]),
    ],
    ids=["open", "sizes", "norm", "no means", "tofu", "no importance", "preset", "text"],
)
def test_where_a_search_tries_other_means(make, settings, means):
    """Where they make a difference, and the user left them open: not those of the defaults."""
    model = apply_pitome(make(), {"ratio": 0.8, **settings})
    length = 24 if make is bert else None
    space = SearchSpace(model, 1.15, sequence_length=length)
    spaces = [space.otherwise(one) for one in space.other_means.values()]
    for other, expected in zip(spaces, means, strict=True):
        apply_pitome(model, other.config(other.profile(STARTS["profile uniform"])))
        (encoder,) = rewritten_encoders(model)
        assert {(spec.weighted_by, spec.keep_norm) for spec in encoder.pitome.specs} == {expected}
        assert pitome_summary(model, num_tokens=length).flops_ratio >= 1.15


@pytest.mark.parametrize("better", ["profile late", "profile early, weighted by attention, all of the norm kept"])
def test_all_samples_choose_what_the_search_starts_from(better):
    """Profiles first, then other means with the best two of them: what is best on the samples that are held counts as
    much as what is best on the others."""
    tried, wanted = [], dict.fromkeys(["profile early", "profile late"], 0.5) | {better: 0.1}
    model = apply_pitome(lively(tiny_vit()), 0.8)
    names = {}
    space = SearchSpace(model, 1.15)
    for name, removed in STARTS.items():
        for means, changes in {"": {}, **space.other_means}.items():
            other = space.otherwise(changes)
            config = other.config(other.profile(removed))
            names[json.dumps(config.to_pitome_dict())] = f"{name}, {means}" if means else name

    def distance(merged, dense, inputs):
        name = names[json.dumps(PiToMeConfig.from_value(model.config.pitome).to_pitome_dict())]
        tried.append(name)
        held = len(merged.logits) == 1
        return torch.full((len(merged.logits),), 3 * wanted.get(name, 1.0) - 2 if held else 1.0)

    limits = {"flops_ratio": 1.15, "max_settings": 16, "seed": 0, "resume_from": None, "progress": False}
    found = search_ratios(model, [{"pixel_values": Pictures(3).pixels}], None, distance, **limits)
    assert names[json.dumps(found.config.to_pitome_dict())] == better and found.num_settings == 16
    with_means = {name.split(", ")[0] for name in tried if ", " in name}
    assert with_means == {"profile early", "profile late"} and len(set(tried)) == len(STARTS) + 2 * 5


def test_samples_are_set_apart():
    """The last of three samples, also where it lies in another batch; settings stay with both parts."""
    batches = [
        {"input_ids": torch.arange(4).view(4, 1), "labels": list("abcd"), "interpolate": True},
        {"input_ids": torch.tensor([[4]]), "labels": ["e"], "interpolate": True},
        {"input_ids": torch.tensor([[5], [6]]), "labels": ["f", "g"], "interpolate": True},
    ]
    parts = [
        [(batch["input_ids"].flatten().tolist(), batch["labels"], batch["interpolate"]) for batch in part]
        for part in set_apart(batches, 3)
    ]
    assert parts == [
        [([0, 1, 3], ["a", "b", "d"], True), ([4], ["e"], True), ([6], ["g"], True)],
        [([2], ["c"], True), ([5], ["f"], True)],
    ]


def test_it_goes_on_where_it_ended(tmp_path):
    inputs, path = [{"pixel_values": Pictures(8).pixels}], tmp_path / "search.jsonl"
    arguments = {"flops_ratio": 1.2, "max_settings": 24, "resume_from": path, "progress": False}
    whole = tune_ratios(vit(), inputs, **arguments)
    lines = path.read_text().splitlines()
    assert len(lines) > 10

    path.write_text("\n".join(lines[:8]) + "\n" + lines[8][:20])  # killed while it wrote
    ran = []

    class Counting(ViTModel):
        def forward(self, *args, **kwargs):
            ran.append(1)
            return super().forward(*args, **kwargs)

    model = vit()
    model.__class__ = Counting
    assert tune_ratios(model, inputs, **arguments) == whole
    assert len(ran) == 2 + len(lines) - 8  # the dense one of both parts, and what was not measured before
    with pytest.raises(ValueError, match="belongs to another search"):
        tune_ratios(vit(), inputs, **{**arguments, "flops_ratio": 1.3})
    assert json.loads(lines[1]).keys() == {"settings", "part", "losses"}


def test_layers_parts_and_numbers_of_tokens():
    model = apply_pitome(bert(), {"text": {"ratio": 0.8, "layers": [1, 2], "min_tokens": 3}})
    space = SearchSpace(model, 1.1, sequence_length=24)
    assert space.layers == [1, 2]
    config = space.config(space.weighted([1.0, 2.0]))
    assert config.parts["text"]["layers"] == [1, 2] and config.parts["text"]["min_tokens"] == 3
    first, second = (1 - ratio for ratio in config.parts["text"]["ratio"])
    assert second == pytest.approx(2 * first, rel=0.01)
    assert pitome_summary(apply_pitome(model, config), 24).flops_ratio >= 1.1
    config = tune_ratios(vit(), [{"pixel_values": Pictures(4).pixels}], num_tokens=40, max_settings=6, progress=False)
    assert pitome_summary(apply_pitome(vit(), config)).encoders[0].tokens[-1] == 41


def test_errors_leave_the_model_alone():
    model = apply_pitome(tiny_vit(), 0.9)
    pixels = {"pixel_values": Pictures(4).pixels}
    cases = [
        (([], 1.3), {}, "No calibration batches"),
        ((pixels, 1.3), {}, "batches is one batch: pass a list"),
        (([torch.zeros(2, 3, 32, 32)], 1.3), {}, "is a mapping of model inputs"),
        (([pixels], 90.0), {}, "out of reach"),
        (([pixels],), {}, "Give flops_ratio"),
        (([pixels], 1.3), {"num_tokens": 9}, "Give flops_ratio"),
        (([pixels], 0.3), {}, "flops_ratio=0.3 is out of range"),
        (([pixels], 1.3), {"max_settings": 2}, "at least 6"),
    ]
    for arguments, keywords, message in cases:
        with pytest.raises(ValueError, match=message):
            tune_ratios(model, *arguments, progress=False, **keywords)
        assert model.config.pitome["ratio"] == 0.9 and kept(model)[0] == 0.9
    dense = tiny_vit()
    with pytest.raises(ValueError, match="No calibration"):
        tune_ratios(dense, [], 1.3)
    assert not rewritten_encoders(dense)


def test_the_middle_of_the_last_settings_is_tried_last(tmp_path):
    """Where the search goes on after the profiles and other means, one more setting than whole generations."""
    model, path = apply_pitome(lively(tiny_vit()), 0.8), tmp_path / "tried.jsonl"
    found = search_ratios(
        model,
        [{"pixel_values": Pictures(8).pixels}],
        flops_ratio=1.15,
        max_settings=30,
        seed=0,
        resume_from=path,
        progress=False,
    )
    held = [line["losses"] for line in map(json.loads, path.read_text().splitlines()) if line.get("part") == "held"]
    *fixed, best, middle = (sum(losses) / len(losses) for losses in held)
    generation = import_cma().CMAEvolutionStrategy([0.0] * 8, 1.0, {"verbose": -9}).popsize
    assert len(fixed) == len(STARTS) + 2 * 5  # other means with two profiles
    assert (found.num_settings - len(fixed)) % generation == 1
    assert any(found.loss == pytest.approx(one) for one in (best, middle, *fixed))
    assert found.loss <= min(best, middle)


def test_a_point_of_the_search_says_its_ratios():
    """Where a search starts is the profile that it starts from, and not some other setting of the budget."""
    space = SearchSpace(vit(), 1.25)
    for removed in STARTS.values():
        ratios = space.profile(removed)
        if min(1 - ratios[index] for index in space.layers) > 0.01:
            at = space.at(space.point(ratios))
            assert at.ratio == pytest.approx(ratios, abs=2e-3) and at.importance == [0.5] * len(ratios)
    late = space.profile(STARTS["profile late"])
    assert space.at([0.0] * 2 * len(space.layers)).ratio != pytest.approx(late, abs=1e-3)
    away = space.at([*space.point(late)[:-1], 2.0])
    assert away.importance == [0.5, 0.5, 0.5, 0.881] and PiToMeConfig.from_value(away.to_pitome_dict()) == away


def test_texts_are_searched_with_their_defaults_under_a_budget():
    space = SearchSpace(bert(), 1.1, sequence_length=24)
    profile = space.config(space.profile(STARTS["profile balanced"]))
    assert (profile.algorithm, profile.importance) == ("tome", 0.75)
    model = apply_pitome(bert(), {"flops_ratio": 1.1})
    (budgeted,) = rewritten_encoders(model)
    settings = [(spec.algorithm, spec.importance, spec.metric) for spec in budgeted.pitome.specs]
    (found,) = rewritten_encoders(apply_pitome(bert(), space.at(space.point(space.profile(STARTS["profile early"])))))
    assert [(spec.algorithm, spec.importance, spec.metric) for spec in found.pitome.specs] == settings
    named = SearchSpace(apply_pitome(bert(), {"algorithm": "pitome"}), 1.1, sequence_length=24)
    assert named.config(named.profile(STARTS["profile early"])).importance is None


@pytest.mark.parametrize(
    "settings, searched",
    [({}, True), ({"importance": 0.5}, False), ({"importance": 0.0}, False), ({"energy": "paper"}, False)],
    ids=str,
)
def test_importance_is_searched_where_it_is_open_and_read(settings, searched):
    space = SearchSpace(apply_pitome(vit(), settings), 1.25)
    config = space.at(space.point(space.profile(STARTS["profile late"])))
    assert isinstance(config.importance, list) == searched
    if not searched:
        assert config.importance == settings.get("importance")


@pytest.mark.parametrize("searched", [True, False], ids=["a gain", "a loss"])
def test_what_is_returned_loses_least_on_other_samples(searched, caplog):
    """What the first layer removes costs the samples that are held, too, or it spares them."""
    settings = PiToMeConfig(0.9, metric="hidden_states")
    model = apply_pitome(vit(), settings)
    side = torch.tensor([1.0, 1.0, 4.0, 1.0, 1.0, -3.9 if searched else -4.1] * 4)

    def distance(merged, dense, inputs):
        return (1.0 - kept(model)[0]) * inputs["pixel_values"][:, 0, 0, 0]

    pixels = Pictures(24).pixels
    pixels[:, 0, 0, 0] = side
    config = tune_ratios(model, [{"pixel_values": pixels}], 1.25, distance=distance, max_settings=60, progress=False)
    space = SearchSpace(apply_pitome(vit(), settings), 1.25)
    profiles = {name: space.profile(removed)[0] for name, removed in STARTS.items()}
    assert config.ratio is not None
    if searched:
        assert kept(model)[0] > max(profiles.values()) + 1e-6 and caplog.messages == []
    else:
        # The best profile on all samples, not the one on the samples that are held, which are fewer.
        assert kept(model)[0] == pytest.approx(max(profiles.values()))
        assert "no ratios that it drew lose less than profile of lateness 0.4" in caplog.text
