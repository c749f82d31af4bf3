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

"""How many operations a merging layer adds to a dense one: each is a kernel to launch on an accelerator.

A number here that grows is a merge that got slower where launches decide. One that falls is to be lowered here, too.
"""

import pytest
import torch
import torch._inductor.config as inductor_config
from modeling.counting import OperationCounter, added_operations
from modeling.helpers import CASES
from torch._inductor.ir import MultiOutput
from zoo.text import text_inputs

from optimum_pitome import PiToMeConfig, apply_pitome
from optimum_pitome.merging import Constants, KeepRatio, MergeSpec, TokenMasks, match_tokens


pytestmark = pytest.mark.usefixtures("pytorch_alone")


def layers_of(model):
    """The layers of an encoder of the zoo."""
    return next(module for name, module in model.named_modules() if name.split(".")[-1] in ("layers", "layer"))


def added(name, mask=None, **settings):
    """What merging adds to the first merging layer, to a later one, and to what is no layer."""
    case = CASES[name]
    model = apply_pitome(case.build(), PiToMeConfig(ratio=0.8, **settings))
    inputs = case.inputs(2)
    if mask is not None:
        inputs["attention_mask"] = mask(inputs["input_ids"])
    *in_layers, rest = added_operations(model, inputs, layers_of(model))
    merging = [number for number in in_layers if number > 5]
    # What a later layer adds does not depend on its depth.
    assert len(merging) >= 2 and len(set(merging[1:])) == 1, in_layers
    return merging[0], merging[1], rest


@pytest.mark.parametrize(
    "name, settings, budget",
    [
        ("ViTModel", {}, 37),
        ("CLIPVisionModel", {}, 37),
        ("ViTModel", {"importance": 0.0}, 25),
        ("ViTModel", {"weighted_by": "attention"}, 39),
        ("ViTModel", {"keep_norm": 0.5}, 50),
        ("ViTModel", {"energy": "elu", "importance": 0.0}, 24),
        ("ViTModel", {"algorithm": "tome"}, 22),
        ("ViTModel", {"algorithm": "pitome_unprotected", "importance": 0.0}, 42),
        ("ViTModel", {"algorithm": "pitome_halves", "importance": 0.0}, 25),
        ("ViTModel", {"algorithm": "random"}, 63),
        ("ViTModel", {"algorithm": "diffrate"}, 52),
        ("ViTModel", {"algorithm": "dct"}, 124),
        # Positions of the tokens that are left, rotary embeddings cut to them, and keys turned back by these.
        ("DINOv3ViTModel", {}, 58),
    ],
    ids=str,
)
def test_no_merging_layer_adds_more(name, settings, budget):
    if name not in CASES:
        pytest.skip(f"{name} needs a newer transformers")
    first, later, rest = added(name, **settings)
    assert later <= budget
    # The first one makes the constants of the forward, and the last one is followed by the way back to all tokens.
    assert first <= budget + 12 and rest <= 8


#: What the defaults of texts are with a budget.
OF_A_BUDGET = {"algorithm": "tome", "importance": 0.75, "weighted_by": "attention"}


def padded(input_ids):
    mask = torch.ones_like(input_ids)
    mask[1, -3:] = 0
    return mask


@pytest.mark.parametrize("settings, budget", [({}, 63), ({"algorithm": "tome"}, 57), (OF_A_BUDGET, 76)], ids=str)
def test_no_merging_layer_of_padded_texts_adds_more(settings, budget):
    first, later, rest = added("BertModel", padded, **settings)
    assert later <= budget and first <= budget + 45 and rest <= 2


@pytest.mark.parametrize("settings, budget", [({}, 36), (OF_A_BUDGET, 35)], ids=str)
def test_no_merging_layer_of_texts_without_padding_adds_more(settings, budget):
    model = apply_pitome(CASES["BertModel"].build(), PiToMeConfig(ratio=0.8, **settings))
    first, *later, rest, _ = added_operations(model, text_inputs(2, lengths=(24, 24)), layers_of(model))
    assert max(later) <= budget and first <= budget + 36 and rest <= 2


def test_what_counts_as_an_operation():
    tokens = torch.randn(4, 6)
    with OperationCounter() as counter:
        view = tokens.view(6, 4).t()[1:]
        (view + 1).relu_()
        torch.promote_types(torch.float16, torch.float32)
    assert counter.operations == {"aten.add.Tensor": 1, "aten.relu_.default": 1}


def test_every_layer_writes_to_memory_of_its_own():
    """However many there are: what one wrote is nothing that another finds."""
    constants = Constants.of(torch.empty(2, 5))
    made = [constants.advance(7) for _ in range(30)]
    for tensor in made:
        assert tensor.tolist() == [0, 1, 1, 1, 1, 1, 1]
        tensor.fill_(5)


def test_constants_of_a_forward_change_no_plan():
    features, hidden_states, spec = torch.randn(3, 20, 8), torch.randn(3, 20, 4), MergeSpec(KeepRatio.from_float(0.7))
    large = Constants.of(torch.empty(5, 30))
    for valid in (None, torch.arange(20) < torch.tensor([[20], [15], [8]])):
        alone, shared = (match_tokens(features, spec, TokenMasks(1, valid, constants=it)) for it in (None, large))
        assert torch.equal(alone.rows, shared.rows) and torch.equal(alone.kept, shared.kept)
        assert torch.equal(alone.merge(hidden_states), shared.merge(hidden_states))


class _Counted(Exception):
    """Ends a compilation: what follows would make code that only a GPU runs."""


def merging_alone(importance):
    """A merge as a layer has it, but for what the class token pays, and its inputs."""
    spec = MergeSpec(KeepRatio.from_float(0.8), importance=importance)

    def merge(hidden_states, keys, attention, sizes, rows):
        plan = match_tokens(keys, spec, TokenMasks(1, attention=attention))
        totals = plan.merge_sizes(sizes)
        return plan.merge(hidden_states, sizes, totals), totals.log(), plan.rows.flatten()[rows]

    torch.manual_seed(0)
    keys = torch.randn(2, 3, 65, 16)
    keys[:, :, 9:12] = keys[:, :, 8:9]
    return merge, (torch.randn(2, 65, 48), keys, torch.rand(2, 65), torch.ones(2, 65), torch.arange(130).view(2, 65))


@pytest.fixture
def nothing_hidden(monkeypatch):
    """Inductor sees into what operators hide from it on CPUs."""
    monkeypatch.setattr("optimum_pitome.merging.matching.is_opaque", lambda tokens: False)
    monkeypatch.setattr("optimum_pitome.merging.opaque.is_opaque", lambda tokens: False)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("importance, budget", [(0.5, 14), (0.0, 11)])
def test_no_compiled_merge_takes_more_kernels(importance, budget, nothing_hidden):
    """What Inductor makes of a merge for Triton: kernels of its own, and calls of libraries. Its scheduler, which
    decides what becomes one kernel, runs without Triton and without a GPU."""
    kernels = []

    def count(nodes):
        calls = [node for node in nodes if not isinstance(getattr(node, "node", None), MultiOutput)]
        kernels.extend(type(node).__name__ for node in calls if type(node).__name__ != "NopKernelSchedulerNode")
        raise _Counted

    merge, given = merging_alone(importance)
    patch = inductor_config.patch(cpu_backend="triton", _post_fusion_custom_pass=count, force_disable_caches=True)
    with torch.no_grad(), patch, pytest.raises(Exception, match="_Counted"):
        torch.compile(merge)(*given)
    assert kernels.count("ExternKernelSchedulerNode") == 2  # the product of all pairs, and the ranking
    assert len(kernels) <= budget


@pytest.mark.slow
@pytest.mark.parametrize("importance", [0.5, 0.0])
def test_a_compiled_merge_is_the_same(importance, nothing_hidden):
    """Ties included."""
    merge, given = merging_alone(importance)
    with torch.no_grad(), inductor_config.patch(force_disable_caches=True):
        found = torch.compile(merge)(*given)
    for value, expected in zip(found, merge(*given), strict=True):
        torch.testing.assert_close(value, expected)
