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

"""The table of architectures: what is found in it, and how an entry travels."""

import copy
import pickle
import sys
import types
from dataclasses import replace

import pytest
from modeling.helpers import build
from torch import nn
from transformers import AttentionInterface, SiglipVisionModel, ViTModel
from transformers.models.siglip import modeling_siglip
from transformers.models.vit import modeling_vit

from optimum_pitome import MergingLayer, apply_pitome, register_architecture
from optimum_pitome.modeling import registry
from optimum_pitome.modeling.attention import MergingInterface, is_routed, route_attention
from optimum_pitome.modeling.registry import find_architecture, find_refusal, refuse_architecture, supported_message


def test_an_entry_travels_with_what_a_host_adapted():
    entry = find_architecture(build("ViTModel"))
    assert copy.deepcopy(entry) is entry
    assert pickle.loads(pickle.dumps(entry)) == entry
    adapted = replace(entry, marks_outputs=True, part="text", reads=(1, 3))
    assert pickle.loads(pickle.dumps(adapted)) == adapted != entry
    # Only what differs: the rest is that of the registry where it arrives.
    assert registry._reduce(adapted)[1] == (
        ViTModel,
        entry.layer_class,
        {"marks_outputs": True, "part": "text", "reads": (1, 3)},
    )


def test_the_classes_of_an_entry():
    vit, siglip = find_architecture(build("ViTModel")), find_architecture(build("SiglipVisionModel"))
    assert vit.dense_layer_class is modeling_vit.ViTLayer and not vit.attention_classes
    assert siglip.encoder_class is SiglipVisionModel
    assert siglip.attention_classes == {modeling_siglip.SiglipAttention: siglip.attention_class}
    assert siglip.attention_class.__name__ == "SiglipAttention"
    assert vit.count_prefix(None) == 1 and siglip.count_prefix(None) == 0


def test_which_encoders_read_token_ids():
    """Those that take them as an argument, and those of which the family knows another way; no vision tower."""
    bert, mpnet = find_architecture(build("BertModel")), find_architecture(build("MPNetModel").encoder)
    assert bert.reads_token_ids and mpnet.reads_token_ids
    assert not find_architecture(build("ViTModel")).reads_token_ids
    assert not replace(mpnet, read_arguments=None).reads_token_ids
    assert not replace(bert, special_tokens=None).reads_token_ids


def test_subclasses_have_the_entry_of_their_base():
    class Mine(ViTModel):
        pass

    entry = find_architecture(build("ViTModel"))
    assert find_architecture(Mine(build("ViTModel").config)) is entry
    assert find_architecture(nn.Linear(1, 1)) is None


def test_refusals(monkeypatch):
    monkeypatch.setattr(registry, "_REFUSALS", {})

    class Known(nn.Linear):
        pass

    class Derived(Known):
        pass

    assert find_refusal(Known(1, 1)) is None
    refuse_architecture(Known, "text", "it is a line")
    for module in (Known(1, 1), Derived(1, 1)):
        refusal = find_refusal(module)
        assert (refusal.part, refusal.reason) == ("text", "it is a line")
    assert find_refusal(nn.Linear(1, 1)) is None and find_refusal(build("ViTModel")) is None
    entry = replace(find_architecture(build("ViTModel")), refuses=lambda encoder: "no room", part="attic")
    monkeypatch.setitem(registry._ARCHITECTURES, ViTModel, entry)
    assert (find_refusal(build("ViTModel")).part, find_refusal(build("ViTModel")).reason) == ("attic", "no room")
    monkeypatch.setitem(registry._ARCHITECTURES, ViTModel, replace(entry, refuses=lambda encoder: None))
    assert find_refusal(build("ViTModel")) is None


@pytest.mark.parametrize("layer_class", ["ViTLayer", MergingLayer(), dict, None], ids=lambda x: type(x).__name__)
def test_what_is_no_layer_class(layer_class):
    with pytest.raises(ValueError, match="expected a subclass of MergingLayer and of the layer's class"):
        register_architecture(nn.Bilinear, layer_class)


@pytest.mark.parametrize(
    "encoder_class, settings, message",
    [
        ("Encoder", {}, "encoder_class='Encoder': expected the class of the module that runs the layers"),
        (nn.Module, {"layer": "blocks"}, "no argument 'layer'. Did you mean 'layers'"),
        (nn.Module, {"num_tokens": 41}, "num_tokens=41: expected a function"),
    ],
    ids=["no class", "no argument", "no function"],
)
def test_what_no_entry_takes(encoder_class, settings, message):
    with pytest.raises(ValueError, match=message):
        register_architecture(encoder_class, nn.Linear, num_prefix_tokens=1, **settings)


def test_the_message_names_what_was_added(monkeypatch):
    apply_pitome(build("ViTModel"), 0.9)
    monkeypatch.setattr(registry, "_ARCHITECTURES", {ViTModel: registry._ARCHITECTURES[ViTModel]})
    before = supported_message()
    assert before.startswith("Supported model types: aimv2, ") and "registered here" not in before
    assert "; others, such as gemma3, have one of these inside (docs/models.md). To add one" in before
    assert before.endswith(" (docs/models.md). To add one, see optimum_pitome.register_architecture.")
    entry = find_architecture(build("ViTModel"))
    monkeypatch.setitem(registry._ARCHITECTURES, nn.Bilinear, replace(entry, encoder_class=nn.Bilinear))
    assert "; registered here: Bilinear (docs/models.md). To add one" in supported_message()


@pytest.fixture
def modeling_file(monkeypatch):
    """A modeling file with an attention class and, if asked for, attention functions."""
    module = types.ModuleType("modeling_file")
    monkeypatch.setitem(sys.modules, "modeling_file", module)
    module.Attention = type("Attention", (nn.Module,), {"__module__": "modeling_file"})
    return module


def test_the_functions_of_a_modeling_file_stay_within_reach(modeling_file):
    def mine(*args, **kwargs):
        return "mine", args, kwargs

    functions = modeling_file.ALL_ATTENTION_FUNCTIONS = AttentionInterface()
    functions["mine"] = mine
    assert not is_routed(modeling_file.Attention())
    route_attention("modeling_file")
    routed = modeling_file.ALL_ATTENTION_FUNCTIONS
    assert isinstance(routed, MergingInterface) and is_routed(modeling_file.Attention())
    arguments = ("module", "query", "key", "value", None)
    assert routed.get_interface("mine", None)(*arguments, scaling=2) == ("mine", arguments, {"scaling": 2})
    default = routed.get_interface("eager", lambda *args, **kwargs: (args, kwargs))
    assert default(*arguments, "further", dropout=0.0) == ((*arguments, "further"), {"dropout": 0.0})
    functions["later"] = mine  # what others hold is the same table
    assert routed.get_interface("later", None)(*arguments)[0] == "mine"
    route_attention("modeling_file")
    assert modeling_file.ALL_ATTENTION_FUNCTIONS is routed


@pytest.mark.parametrize("functions", [None, {}], ids=str)
def test_a_modeling_file_without_attention_functions_stays_as_it_is(modeling_file, functions):
    if functions is not None:
        modeling_file.ALL_ATTENTION_FUNCTIONS = functions
    before = dict(vars(modeling_file))
    route_attention("modeling_file")
    assert vars(modeling_file) == before and not is_routed(modeling_file.Attention())
