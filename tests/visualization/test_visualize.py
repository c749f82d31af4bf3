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

"""What `visualize` says and draws, for every encoder of the zoo."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import real_assets
import torch
from group_checks import check_groups
from PIL import Image
from transformers import AutoImageProcessor, Dinov2Model, ViTModel, YolosModel
from zoo import one_per_encoder
from zoo.text import CASES as TEXTS
from zoo.vit import vit_config
from zoo.vit_like import yolos_config

from optimum_pitome import apply_pitome, pitome_disabled, visualize
from optimum_pitome.apply import layers_watched
from optimum_pitome.methods import ALGORITHMS
from optimum_pitome.modeling.rewrite import rewritten_encoders
from optimum_pitome.visualization.groups import RunTrace
from optimum_pitome.visualization.samples import PictureGroups
from optimum_pitome.visualization.texts import TextGroups, page, svg


SETTINGS = {"ratio": 0.8, "min_tokens": 1}
#: Leaves colours of these pictures between 0 and 1.
PALE = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.05] * 3)


def part_of(case):
    """What merges in the model of a case."""
    model = apply_pitome(case.build(), SETTINGS)
    return rewritten_encoders(model)[0].pitome.architecture.part


CASES = {part: [] for part in ("vision", "text", "audio")}  # test_sounds.py draws those of sound
for one in one_per_encoder():
    CASES[part_of(one)].append(pytest.param(one, id=one.id))


@pytest.mark.parametrize("case", CASES["vision"])
def test_every_vision_encoder(case):
    model = apply_pitome(case.build(), SETTINGS)
    samples = visualize(model, case.inputs(2))
    assert samples and all(isinstance(sample, PictureGroups) for sample in samples)
    for sample in samples[:2]:
        check_groups(sample)
        grid = sample.grid
        assert sample.pixels.shape == (grid.rows * grid.patch[0], grid.columns * grid.patch[1], 3)
        assert len(np.unique(sample.pixels)) > 10 and 0 <= sample.pixels.min() and sample.pixels.max() <= 1
        placed = grid.cells[grid.cells >= 0]
        assert len(np.unique(placed)) == len(placed) > 0.4 * grid.rows * grid.columns
        special = (grid.cells < 0) & (sample.layers[0].groups >= 0)
        rewrite = rewritten_encoders(model)[0].pitome
        assert special.sum() == rewrite.num_prefix_tokens + rewrite.num_suffix_tokens
        assert sample.layers[0].protected[special].all() and sample.layers[0].num_tokens < len(grid.cells)
        picture = sample.picture(side=64)
        assert isinstance(picture, Image.Image) and picture.mode == "RGB" and len(picture.getcolors(10**6)) > 50
        frames = sample.animation(side=64)
        assert len(frames) == len(sample.layers) + 1 and len({frame.size for frame in frames}) == 1
        assert frames[1].tobytes() != frames[0].tobytes()


@pytest.mark.parametrize("case", [case for case in CASES["vision"] if "Qwen2_5" not in case.id])
def test_tokens_lie_where_their_pixels_are(case):
    """A change of a pixel moves the one token that is drawn over it. (Inside towers with windows, tokens have another
    order.)"""
    model = apply_pitome(case.build(), SETTINGS)
    encoder = rewritten_encoders(model)[0]
    layer = encoder.pitome.architecture.find_layers(encoder)[0]
    seen = []
    layer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((*args, *kwargs.values())[0]), with_kwargs=True
    )
    inputs = case.inputs(2)
    name = "pixel_values_videos" if "pixel_values_videos" in inputs else "pixel_values"
    name = next(one for one in (name, "pixel_values_images", "hidden_states") if one in inputs)
    before = visualize(model, inputs, PALE)
    if len(before) != 2 or len(seen) != 1:
        pytest.skip("the model cuts pictures into tiles, or has several towers")
    generator, found = torch.Generator().manual_seed(0), 0
    for _ in range(6):
        place = [int(torch.randint(length, (1,), generator=generator)) for length in inputs[name].shape]
        if len(place) > 3:  # the middle of a patch: those of ViTPose lie two pixels further up and left
            patch = before[0].grid.patch
            place[-2:] = [at // side * side + side // 2 for at, side in zip(place[-2:], patch)]
        pixels = inputs[name].clone()
        pixels[tuple(place)] += 3.0
        after = visualize(model, {**inputs, name: pixels}, PALE)
        moved = (seen[0] - seen.pop()).abs().amax(dim=-1).view(2, -1)  # packed, too
        sample, token = divmod(int(moved.argmax()), moved.shape[1])
        changed = np.abs(before[sample].pixels - after[sample].pixels).max(axis=-1)
        if moved.max() < 1e-6 or changed.max() < 1e-6:
            continue  # a masked patch, or a frame that is not drawn
        grid = before[sample].grid
        row, column = np.unravel_index(changed.argmax(), changed.shape)
        assert grid.cells[token] == row // grid.patch[0] * grid.columns + column // grid.patch[1]
        found += 1
    assert found


@pytest.mark.parametrize(
    "case",
    [case for case in one_per_encoder() if "Qwen2Vision" in case.id or "Qwen2_5_Vision" in case.id],
    ids=lambda case: case.id,
)
def test_packed_patches_become_the_picture_again(case):
    """They come in squares of 2 x 2, row by row."""
    inputs = case.inputs(1)
    _, rows, columns = inputs["grid_thw"][0].tolist()
    side = round((inputs["hidden_states"].shape[1] / 3) ** 0.5)
    picture = torch.rand(3, rows * side, columns * side, generator=torch.Generator().manual_seed(0))
    patches = []
    for row, column in ((row, column) for row in range(0, rows, 2) for column in range(0, columns, 2)):
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            top, left = (row + down) * side, (column + right) * side
            patches.append(picture[:, top : top + side, left : left + side].flatten())
    model = apply_pitome(case.build(), SETTINGS)
    (sample,) = visualize(model, {**inputs, "hidden_states": torch.stack(patches)})
    spread = (picture - picture.min()) / (picture.max() - picture.min())
    assert np.abs(sample.pixels - spread.permute(1, 2, 0).numpy()).max() < 1e-5


@pytest.mark.parametrize(
    "case", [case for case in one_per_encoder() if "Qwen2_5_Vision" in case.id], ids=lambda case: case.id
)
def test_groups_stay_inside_their_window(case):
    """The tiny tower's windows are 2 x 2 squares of 2 x 2 patches; its picture of 6 x 10 patches has whole and cut
    ones."""
    model = apply_pitome(case.build(), {"ratio": 0.6, "min_tokens": 1})
    config = rewritten_encoders(model)[0].config
    reach = config.window_size // config.patch_size
    rows, columns = 3 * reach // 2, 5 * reach // 2
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(rows * columns, 3 * config.patch_size**2, generator=generator)
    (sample,) = visualize(model, {"hidden_states": patches, "grid_thw": torch.tensor([[1, rows, columns]])})
    check_groups(sample)
    place = np.arange(rows * columns).reshape(rows, columns)
    windows = place // columns // reach * columns + place % columns // reach
    groups = sample.grid.lay_out(sample.layers[-1].groups, -1)
    several = 0
    for group in np.unique(groups):
        inside = groups == group
        assert len(np.unique(windows[inside])) == 1
        several += inside.sum() > 1
    assert several > len(np.unique(windows)) // 2


@pytest.mark.parametrize("case", CASES["text"])
def test_every_text_encoder(case):
    samples = visualize(apply_pitome(case.build(), SETTINGS), case.inputs(2))
    assert len(samples) == 2 and all(isinstance(sample, TextGroups) for sample in samples)
    ids, mask = case.inputs(2)["input_ids"], case.inputs(2)["attention_mask"]
    for sample, numbers, real in zip(samples, ids.tolist(), mask.bool().numpy()):
        check_groups(sample)
        assert sample.tokens == [str(number) for number in numbers]
        assert ((sample.layers[-1].groups >= 0) == real).all()


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    config = vit_config()
    return apply_pitome(ViTModel(config, add_pooling_layer=False).eval(), SETTINGS)


def pixels(height=32, width=32, batch_size=2):
    return {"pixel_values": torch.randn(batch_size, 3, height, width, generator=torch.Generator().manual_seed(1))}


ALL = "pitome pitome_unprotected pitome_halves pitome_random_split mutual tome tofu dct diffrate random".split()


@pytest.mark.parametrize("algorithm", ALL)
def test_every_algorithm(vit, algorithm):
    apply_pitome(vit, {**SETTINGS, "algorithm": algorithm})
    sample = visualize(vit, pixels())[0]
    entry, layer = ALGORITHMS[algorithm], sample.layers[-1]
    assert (layer.energy is not None) == entry.reads_energy
    drops = algorithm in ("random", "diffrate")
    assert layer.dropped.any() == drops
    if not drops and algorithm != "dct":
        check_groups(sample)
    if algorithm == "diffrate":  # what this layer drops it has looked at before
        assert np.isfinite(sample.layers[0].importance[1:]).all() and np.isnan(layer.importance).sum() > 1
    if algorithm == "random":
        assert layer.dropped.sum() == 65 - layer.num_tokens
    # The prefix, and all but 2k of those that may merge.
    first, kept = sample.layers[0], sample.layers[0].num_tokens
    assert first.protected.sum() == (65 - 2 * (65 - kept) if entry.protects else 1)
    assert sample.picture().size[0] > 1000


def test_protected_tokens_have_the_lowest_energy(vit):
    apply_pitome(vit, SETTINGS)
    for sample in visualize(vit, pixels()):
        layer = sample.layers[0]
        patches = np.arange(1, 65)
        left_alone = patches[layer.protected[1:]]
        assert layer.energy[left_alone].max() <= layer.energy[np.setdiff1d(patches, left_alone)].min()
        assert np.isnan(layer.energy[0]) and (layer.members[left_alone] == 1).all()


@pytest.mark.parametrize("patch", [2, 4, 7, 16])
@pytest.mark.parametrize("height, width", [(48, 24), (20, 64), (33, 47)])
def test_pictures_of_other_shapes(height, width, patch):
    """Not square, interpolated positions, and pixels left over beside whole patches; patches of several sizes."""
    config = vit_config()
    config.patch_size = patch
    torch.manual_seed(0)
    model = apply_pitome(ViTModel(config, add_pooling_layer=False).eval(), {"ratio": 0.6, "min_tokens": 1})
    sample = visualize(model, {**pixels(height, width), "interpolate_pos_encoding": True})[1]
    check_groups(sample)
    rows, columns = height // patch, width // patch
    assert (sample.grid.rows, sample.grid.columns) == (rows, columns)
    assert sample.pixels.shape == (rows * patch, columns * patch, 3)
    assert sample.grid.cells.tolist() == [-1, *range(rows * columns)]
    sample.picture()


def test_a_picture_by_hand(vit):
    """Two halves of one colour each: their groups have these colours, and borders where they meet."""
    halves = torch.zeros(1, 3, 32, 32)
    halves[:, 0, :, 16:] = 1.0
    apply_pitome(vit, {"ratio": 0.5, "min_tokens": 1, "importance": 0})
    processor = SimpleNamespace(image_mean=[0.0] * 3, image_std=[1.0] * 3)
    sample = visualize(vit, {"pixel_values": halves}, processor)[0]
    assert np.array_equal(sample.pixels[0, 0], [0, 0, 0]) and np.array_equal(sample.pixels[0, -1], [1, 0, 0])
    drawn = np.asarray(sample.picture([0], side=320))
    panel = drawn[29 : 29 + 320, 8 + 320 + 8 :][:, :320]
    assert np.array_equal(panel[20, 20], [0, 0, 0]) and np.array_equal(panel[20, 300], [255, 0, 0])
    with pytest.raises(ValueError, match=r"layers=\[9\]: expected some of the layers 0 to 3"):
        sample.picture([9])


def test_colours_of_groups_stay_from_layer_to_layer(vit):
    """And the groups of a layer are those that the forward itself made."""
    apply_pitome(vit, SETTINGS)
    found = []
    with (
        layers_watched(vit, lambda record: found.append(record.tokens.merged(record.plan).assignment)),
        torch.no_grad(),
    ):
        vit(**pixels())
    for layer, expected in zip(visualize(vit, pixels())[1].layers, found):
        assert np.array_equal(layer.groups, expected[1].numpy())


def test_padding_and_special_tokens_of_texts():
    case = next(case for case in TEXTS if case.id == "BertModel")
    model = apply_pitome(case.build(), SETTINGS)
    inputs = dict(case.inputs(2))
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][1, -9:] = 0
    sample = visualize(model, inputs)[1]
    check_groups(sample)
    assert (sample.layers[-1].groups[-9:] == -1).all() and not sample.layers[0].protected[-9:].any()
    assert sample.html().count("<span") == 15 * len(sample.chosen())


def test_texts_of_tokens():
    """What a tokenizer makes of them, whatever that is, is safe in a page and in a picture."""
    case = next(case for case in TEXTS if case.id == "BertModel")
    words = ["<b>", "&", "\x07", " ", "ok", "数据"]
    tokenizer = SimpleNamespace(decode=lambda ids: words[ids[0] % len(words)])
    samples = visualize(apply_pitome(case.build(), SETTINGS), case.inputs(2), SimpleNamespace(tokenizer=tokenizer))
    assert {*samples[0].tokens, *samples[1].tokens} == {"<b>", "&", "·", "␣", "ok", "数据"}
    for text in (page(samples), svg(samples, [0, -1])):
        assert "&lt;b&gt;" in text and "<b>" not in text and "\x07" not in text
    drawn = ElementTree.fromstring(svg(samples, [0, -1]))
    boxes = [one for one in drawn.iter("{http://www.w3.org/2000/svg}rect") if one.get("stroke")]
    assert len(boxes) == 2 * sum(int((sample.layers[0].groups >= 0).sum()) for sample in samples)
    assert all(float(one.get("x")) + float(one.get("width")) <= 960 for one in boxes)
    layer, spans = (
        samples[0].layers[-1],
        re.findall(r'background:(#\w+)"[^>]*>[^<]*(?:<sub>(\d+)</sub>)?', samples[0].html([-1])),
    )
    together = [number for _, number in spans if number]
    assert len(together) == (layer.members > 1).sum() and len({*together}) == len({*layer.groups[layer.members > 1]})
    assert all((colour == "#ffffff") == (not number) for colour, number in spans)


def test_the_model_is_left_as_it_was(vit):
    apply_pitome(vit, SETTINGS)
    vit.train().layers[0].eval()  # frozen
    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in vit.modules()]
    visualize(vit, pixels())
    assert vit.training and not vit.layers[0].training and vit.pitome.watch is None
    assert hooks == [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in vit.modules()]
    with pytest.raises(ValueError):
        visualize(vit, {"pixel_values": torch.randn(2, 5, 7)})
    assert vit.training and vit.pitome.watch is None
    vit.eval()


def test_errors(vit):
    with pytest.raises(TypeError, match="visualize takes the model's inputs as a mapping"):
        visualize(apply_pitome(ViTModel(vit_config()), 0.8), torch.zeros(1, 3, 32, 32))
    with pytest.raises(TypeError, match="visualize takes a model, got 'vit'"):
        visualize("vit", pixels())
    with pytest.raises(ValueError, match="ViTModel merges nothing: load it with pitome=0.9"):
        visualize(ViTModel(vit_config()), pixels())
    with pitome_disabled(vit), pytest.raises(ValueError, match="merged nothing of these inputs"):
        visualize(vit, pixels())
    with pytest.raises(ValueError, match="part='text': expected one of 'vision'"):
        visualize(apply_pitome(vit, SETTINGS), pixels(), part="text")
    with pytest.raises(ValueError, match="no pixel_values, so its tokens cannot be drawn"):
        encoder = apply_pitome(YolosModel(yolos_config()), SETTINGS).encoder
        visualize(encoder, {"hidden_states": torch.randn(2, 70, 32), "height": 32, "width": 32})


def test_a_trace_that_saw_nothing_is_empty():
    assert not RunTrace()


@pytest.mark.real
def test_the_picture_of_the_docs():
    """Real weights on the photo of docs/visualizing.md: the numbers there, and the dogs stay apart longest."""
    folder = real_assets.dinov2_small()
    model = Dinov2Model.from_pretrained(folder, pitome={"flops_ratio": 1.8})
    processor = AutoImageProcessor.from_pretrained(folder)
    with Image.open(real_assets.data.unpacked_path("photos/lomiri-16.04/friends_by_Aitzol_Berasategi.jpg")) as photo:
        inputs = processor(photo.convert("RGB"), return_tensors="pt")
    sample = visualize(model, inputs, processor)[0]
    check_groups(sample)
    assert [sample.layers[index].num_tokens for index in (2, 5, 8, 11)] == [209, 143, 86, 47]
    expected = inputs["pixel_values"][0].permute(1, 2, 0).numpy() * processor.image_std + processor.image_mean
    assert np.abs(sample.pixels - expected.clip(0, 1)).max() < 1e-5
    members = sample.grid.lay_out(sample.layers[-1].members, 0)
    wall, dogs = members[1:5, 10:], members[1:8, 5:9]
    assert np.median(wall) > 20 > 4 * np.median(dogs)
    with Image.open(Path(__file__).parents[2] / "docs" / "images" / "groups.png") as drawn:
        fresh = sample.picture([2, 5, 8, 11], side=224)
        assert drawn.size == fresh.size
        difference = np.abs(np.asarray(drawn.convert("RGB"), dtype=float) - np.asarray(fresh, dtype=float))
    assert difference.mean() < 10  # 256 colours against all
