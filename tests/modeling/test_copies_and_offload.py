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

"""Copies of a rewritten model, and models whose weights lie elsewhere."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from modeling.helpers import CASES, VISION, build, difference, images, run
from torch.utils._pytree import tree_map_only

from optimum_pitome import apply_pitome, pitome_disabled, remove_pitome


def through_torch(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model)), "torch": through_torch}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", VISION)
def test_copies_are_rewritten_and_independent(name, how):
    model = build(name)
    dense = run(model)
    merged = run(apply_pitome(model, 0.8))
    twin = COPIES[how](model)
    assert type(twin) is type(model) and twin.config.pitome == model.config.pitome
    remove_pitome(model)
    assert difference(run(twin), merged) == 0.0
    # The copy's settings are its own, its attention follows its own configuration, and it can be undone.
    assert difference(run(apply_pitome(twin, 0.7)), merged) > 1e-6
    twin.set_attn_implementation("eager")
    assert run(twin, output_attentions=True)["attentions.0"].shape[-1] == dense_length(name)
    twin.set_attn_implementation("sdpa")
    assert difference(run(remove_pitome(twin)), dense) == 0.0 == difference(run(model), dense)


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_from_inside_a_block_of_pitome_disabled_merges(how):
    """The block is the original's: nobody would end it for the copy. What is dense for good is another copy."""
    model = apply_pitome(build(), 0.8)
    merged = run(model)
    with pitome_disabled(model):
        twin = COPIES[how](model)
        assert difference(run(remove_pitome(COPIES[how](model))), run(model)) == 0.0
        assert difference(run(twin), merged) == 0.0 < difference(run(model), merged)
    with pitome_disabled(twin):
        assert difference(run(twin), merged) > 0.0
    assert difference(run(twin), merged) == 0.0 == difference(run(model), merged)


def dense_length(name):
    return run(build(name, "eager"), output_attentions=True)["attentions.0"].shape[-1]


def test_a_saved_model_loads_in_a_process_that_never_applied(tmp_path):
    model = apply_pitome(build("ViTModel"), 0.8)
    torch.save((model, images(), run(model)), tmp_path / "model.pt")
    program = (
        "import sys, torch\n"
        "model, images, expected = torch.load(sys.argv[1], weights_only=False)\n"
        "output = model(images).last_hidden_state\n"
        "assert (output - expected['last_hidden_state']).abs().max() == 0.0\n"
        "from optimum_pitome import remove_pitome\n"
        "remove_pitome(model)\n"
        "assert type(model.layers[0]).__module__.startswith('transformers')\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "model.pt")], check=True)


def device_map(model):
    """Every other module on disk, layer by layer."""
    places = {}

    def visit(prefix, parent):
        for name, module in parent.named_children():
            if any(isinstance(part, torch.nn.ModuleList) for part in module.modules()):
                visit(f"{prefix}{name}.", module)
            else:
                places[prefix + name] = "disk" if len(places) % 2 else "cpu"

    visit("", model)
    return places


@pytest.mark.parametrize("name", VISION)
def test_dispatch_to_cpu_and_disk(name, tmp_path):
    expected = {ratio: run(apply_pitome(build(name), ratio)) for ratio in (0.8, 0.7)}
    dense = run(build(name))
    before = apply_pitome(build(name), 0.8)
    before = dispatch_model(before, device_map(before), main_device="cpu", offload_dir=tmp_path / "before")
    assert any(parameter.is_meta for parameter in before.parameters())
    assert difference(run(before), expected[0.8]) == 0.0

    after = build(name)
    after = dispatch_model(after, device_map(after), main_device="cpu", offload_dir=tmp_path / "after")
    assert difference(run(after), dense) == 0.0
    for model in (after, before):
        for ratio in (0.7, 0.8):
            assert difference(run(apply_pitome(model, ratio)), expected[ratio]) == 0.0
        assert difference(run(remove_pitome(model)), dense) == 0.0


@pytest.mark.parametrize("layer", [0, 1])
def test_layers_elsewhere_find_the_masks(layer):
    """As with `device_map` over two devices, of which `meta` stands for the other one."""

    def elsewhere(module, args, kwargs):
        return tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))

    model = apply_pitome(build("BertModel"), {"ratio": 0.7, "layers": [layer, 2], "unmerge": False})
    model.pooler = None
    for module in model.encoder.layer[1:]:
        module.to("meta").register_forward_pre_hook(elsewhere, with_kwargs=True)
    output = model(**CASES["BertModel"].inputs(2)).last_hidden_state
    assert output.is_meta and output.shape[1] < 24


def test_cpu_offload():
    expected = run(apply_pitome(build("ViTModel"), 0.8))
    model = build("ViTModel")
    cpu_offload(model, execution_device="cpu")
    assert difference(run(apply_pitome(model, 0.8)), expected) == 0.0
