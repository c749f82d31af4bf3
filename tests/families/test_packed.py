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

"""Towers that get images of several sizes in one sequence: none of them sees another, nor merges with it."""

import pytest
import torch
from families.test_parity import largest_difference, run
from zoo import all_cases
from zoo.packed import packed_images

from optimum_pitome import apply_pitome, pitome_disabled, pitome_summary
from optimum_pitome.modeling.packed import Packing
from optimum_pitome.modeling.rewrite import rewritten_encoders


CASES = [case for case in all_cases() if case.packed == ("hidden_states",)]
pytestmark = pytest.mark.skipif(not CASES, reason="this transformers has no such tower that can be rewritten")
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)

#: A large image, one that merges nothing, a clip of two frames, and a wide one.
GRIDS = ((1, 8, 6), (1, 2, 2), (2, 4, 6), (1, 2, 12))


def of_image(name, value, index):
    """Rows of an output that belong to one image."""
    sizes = [frames * rows * columns for frames, rows, columns in GRIDS]
    per_token = value.shape[0] / sum(sizes)
    return value.split([round(size * per_token) for size in sizes])[index]


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@each_case
def test_an_image_does_not_depend_on_the_others(case, attn_implementation):
    model = apply_pitome(case.build(attn_implementation), 0.75)
    together, inputs = run(model, packed_images(*GRIDS)), packed_images(*GRIDS)
    begin = 0
    for index, grid in enumerate(GRIDS):
        size = grid[0] * grid[1] * grid[2]
        patches = inputs["hidden_states"][begin : begin + size]
        alone = run(model, {"hidden_states": patches, "grid_thw": torch.tensor([grid])})
        found = {name: of_image(name, value, index) for name, value in together.items()}
        assert largest_difference(found, alone) < 2e-5, grid
        begin += size


@each_case
def test_groups_stay_inside_their_image(case):
    model, inputs = apply_pitome(case.build(), 0.75), packed_images(*GRIDS)
    records = []
    rewritten_encoders(model)[0].pitome.watch = records.append
    merged = run(model, inputs)
    with pitome_disabled(model):
        assert largest_difference(run(model, inputs), merged) > 1e-3
    assert len(records) == 3
    frames = [rows * columns for count, rows, columns in GRIDS for _ in range(count)]
    first = records[0].tokens.valid.sum(dim=1).tolist()
    if type(model).__name__.startswith("Qwen2_5"):
        assert len(first) > len(frames) and sum(first) == sum(frames)  # windows
    else:
        assert first == frames


@each_case
def test_places_that_were_computed_before(case):
    """`cu_seqlens` may come with the images; it is no mistake here."""
    model, inputs = apply_pitome(case.build(), 0.75), packed_images(*GRIDS)
    frames = [rows * columns for count, rows, columns in GRIDS for _ in range(count)]
    boundaries = torch.tensor([0, *frames]).cumsum(0).int()
    assert largest_difference(run(model, {**inputs, "cu_seqlens": boundaries}), run(model, inputs)) == 0.0


def test_features_between_layers_are_those_of_all_patches():
    case = next(case for case in CASES if case.id == "Qwen3VLVisionModel")
    model = apply_pitome(case.build(), 0.75)
    with torch.no_grad():
        output = model(**packed_images(*GRIDS), output_hidden_states=True)
        (tap,) = model.deepstack_visual_indexes
        expected = model.deepstack_merger_list[0](output.hidden_states[tap + 1])
    assert torch.equal(output.deepstack_features[0], expected)
    # Equal vectors in each group.
    begin = GRIDS[0][1] * GRIDS[0][2]
    assert len(output.hidden_states[tap + 1][:begin].unique(dim=0)) < begin


def test_the_summary_counts_the_width_of_the_tower():
    case = next(case for case in CASES if case.id.startswith("Qwen2Vision"))
    config = case.config()
    config.hidden_size = 4096  # of the language model
    summary = pitome_summary(apply_pitome(case.model_class(config), 0.75), num_tokens=64)
    weights = 4 * 32 * 32 + 2 * 32 * 64
    assert summary.layers[0].gflops_dense == pytest.approx((64 * weights + 2 * 64**2 * 32) / 1e9)


@pytest.mark.parametrize("lengths", [[4, 4], [3, 5, 1], [6]], ids=str)
def test_what_is_packed_again_is_what_was_unpacked(lengths):
    packing = Packing.of(torch.tensor([0, *lengths]).cumsum(0).int())
    values = torch.randn(sum(lengths), 2)
    padded = packing.unpack(values)
    assert padded.shape == (len(lengths), max(lengths), 2) and packing.num_tokens == max(lengths)
    assert torch.equal(packing.pack(padded), values)
    for row, piece, length in zip(padded, values.split(lengths), lengths):
        assert torch.equal(row[:length], piece)
    real = torch.ones(padded.shape[:2], dtype=torch.bool) if packing.real is None else packing.real
    assert real.sum(dim=1).tolist() == lengths
