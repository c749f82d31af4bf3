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
from optimum_pitome.modeling import layer, masks
from optimum_pitome.modeling.masks import without_masks
from optimum_pitome.modeling.tokens import Tokens


ALL = torch.ones(2, 6, dtype=torch.bool)
PADDED = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])


def marks(*rows):
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


def of(valid, special, **more):
    """What becomes of two samples of six tokens with these masks."""
    tokens = Tokens(valid=valid, special=special, max_special=4, **more)
    return without_masks(tokens, torch.zeros(2, 6, 3))


@pytest.mark.parametrize(
    "valid, special, ends",
    [
        (None, None, None),
        (ALL, None, None),
        (None, marks("x....x", "x....x"), (1, 1)),
        (ALL, marks("xx....", "xx...."), (2, 0)),
        (ALL, marks("...xxx", "...xxx"), (0, 3)),
        (ALL, marks("......", "......"), (0, 0)),
        (ALL, marks("x....x", "x...xx"), None),
        (ALL, marks("x.x..x", "x....x"), None),
        (ALL, marks("x....x", "x.x..x"), None),
        (ALL, marks("x....x", "xx...."), None),
        (ALL, marks("xxxxxx", "xxxxxx"), None),
    ],
)
def test_what_masks_say(valid, special, ends):
    """`ends` is `None` where the special tokens stay a mask, or there are none."""
    found = of(valid, special)
    assert found.valid is None and found.ends == (ends or (0, 0))
    assert found.special is (special if ends is None else None)
    assert found.max_special == (4 if ends is None else 0)


@pytest.mark.parametrize(
    "masks",
    [
        (PADDED, None),
        (PADDED, marks("x....x", "x..x..")),
        (ALL[:, :5], None),
        (ALL, marks("x...x", "x...x")),
        (torch.ones(3, 6, dtype=torch.bool), None),
    ],
)
def test_masks_that_say_more_stay(masks):
    found = of(*masks)
    assert found.valid is masks[0] and found.special is masks[1] and found.ends == (0, 0)


@pytest.mark.parametrize("why", ["recorded", "no data", "a pattern", "protected"])
def test_nothing_is_looked_at(why, monkeypatch):
    valid, special, more = ALL, marks("x....x", "x....x"), {}
    if why == "recorded":
        monkeypatch.setattr(masks, "is_traced", lambda: True)
    elif why == "no data":
        valid, special = valid.to("meta"), special.to("meta")
    else:
        more = {"pairwise_mask" if why == "a pattern" else "protected": ALL}
    found = of(valid, special, **more)
    assert found.valid is valid and found.special is special and found.ends == (0, 0)


@pytest.mark.usefixtures("pytorch_alone")
@pytest.mark.parametrize("settings", [{"ratio": 0.8}, {"flops_ratio": 1.5}], ids=str)
@pytest.mark.parametrize("name", ["BertModel", "RobertaModel", "DistilBertModel", "MPNetModel"])
def test_texts_without_padding_merge_alike_in_fewer_operations(name, settings, monkeypatch):
    case = next(case for case in CASES if case.id == name)
    model = apply_pitome(case.build(), {"layers": [0, 1, 2, 3], **settings})
    alike, padded = text_inputs(2, lengths=(24, 24)), text_inputs(3, lengths=(24, 24, 13))
    outputs, counts = {}, {}
    for looks in (True, False):
        if not looks:
            monkeypatch.setattr(layer, "without_masks", lambda tokens, hidden_states: tokens)
        with torch.no_grad():
            outputs[looks] = model(**alike).last_hidden_state
            outputs["in a batch"] = model(**padded).last_hidden_state[:2]
        counts[looks] = max(added_operations(model, alike, layers_of(model))[1:-1])
    torch.testing.assert_close(outputs[True], outputs[False], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs[True], outputs["in a batch"], atol=1e-5, rtol=1e-5)
    assert counts[True] < counts[False] - 20
