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

"""What says as much as masks with fewer operations: where it is seen, and that nothing else changes."""

import pytest
import torch
from modeling.counting import added_operations
from modeling.test_launches import layers_of
from zoo.text import CASES, text_inputs

from optimum_pitome import apply_pitome
from optimum_pitome.modeling import forward, masks
from optimum_pitome.modeling.masks import without_masks


ALL = torch.ones(2, 6, dtype=torch.bool)
PADDED = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])


def marks(*rows):
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


@pytest.mark.parametrize(
    "valid, special, expected",
    [
        (None, None, (None, None, (0, 0))),
        (ALL, None, (None, None, (0, 0))),
        (PADDED, None, (PADDED, None, (0, 0))),
        (None, marks("x....x", "x....x"), (None, None, (1, 1))),
        (ALL, marks("xx....", "xx...."), (None, None, (2, 0))),
        (ALL, marks("...xxx", "...xxx"), (None, None, (0, 3))),
        (ALL, marks("......", "......"), (None, None, (0, 0))),
        (PADDED, marks("x....x", "x..x.."), "as they are"),
        (ALL, marks("x....x", "x...xx"), "one mask"),
        (ALL, marks("x.x..x", "x....x"), "one mask"),
        (ALL, marks("x....x", "x.x..x"), "one mask"),
        (ALL, marks("x....x", "xx...."), "one mask"),
        (ALL, marks("xxxxxx", "xxxxxx"), "one mask"),
        (None, torch.ones(2, 0, dtype=torch.bool), "one mask"),
    ],
)
def test_what_masks_say(valid, special, expected):
    if isinstance(expected, str):
        expected = (None if expected == "one mask" else valid, special, (0, 0))
    found = without_masks(valid, special)
    assert found[0] is expected[0] and found[1] is expected[1] and found[2] == expected[2]


@pytest.mark.parametrize("why", ["recorded", "no data", "kernels"])
def test_nothing_is_looked_at(why, monkeypatch):
    special = marks("x....x", "x....x")
    if why == "recorded":
        monkeypatch.setattr(masks, "is_traced", lambda: True)
    elif why == "kernels":
        monkeypatch.setattr(masks, "may_run", lambda device: True)
    else:
        special = special.to("meta")
    valid, found, ends = without_masks(ALL.to(special.device), special)
    assert valid is not None and found is special and ends == (0, 0)


@pytest.mark.parametrize("settings", [{"ratio": 0.8}, {"flops_ratio": 1.5}], ids=str)
@pytest.mark.parametrize("name", ["BertModel", "RobertaModel", "DistilBertModel", "MPNetModel"])
def test_texts_without_padding_merge_alike_in_fewer_operations(name, settings, monkeypatch):
    case = next(case for case in CASES if case.id == name)
    model = apply_pitome(case.build(), {"layers": [0, 1, 2, 3], **settings})
    alike, padded = text_inputs(2, lengths=(24, 24)), text_inputs(3, lengths=(24, 24, 13))
    outputs, counts = {}, {}
    for looks in (True, False):
        if not looks:
            monkeypatch.setattr(forward, "without_masks", lambda valid, special: (valid, special, (0, 0)))
        with torch.no_grad():
            outputs[looks] = model(**alike).last_hidden_state
            outputs["in a batch"] = model(**padded).last_hidden_state[:2]
        counts[looks] = max(added_operations(model, alike, layers_of(model))[1:-1])
    torch.testing.assert_close(outputs[True], outputs[False], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs[True], outputs["in a batch"], atol=1e-5, rtol=1e-5)
    assert counts[True] < counts[False] - 20
