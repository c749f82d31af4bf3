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

"""The plugin for vLLM as far as it can be tested without vLLM. `make test-vllm` runs vllm_engine/ with it."""

import configparser
import copy
import importlib
import re
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from families.llava_helpers import needs_dinov2
from transformers import AutoModel, AutoModelForImageTextToText, BertConfig
from zoo import all_cases
from zoo.llava import NUM_PATCHES, image, llava_config, make_processor, picture, vipllava_config

from optimum_pitome import num_image_tokens
from optimum_pitome.integrations.vllm import decision, placeholders, plugin, vision
from optimum_pitome.modeling import wrap


SETUP = Path(__file__).parents[2] / "setup.cfg"


def with_pitome(config, value=0.8):
    config.pitome = value
    return config


def config_of(name):
    (case,) = [case for case in all_cases() if case.model_class.__name__ == name and not case.variant]
    return case.config()


def model_config(config, backend=False, pooling="LAST", images=None):
    """As much of vLLM's ModelConfig as is looked at."""
    return SimpleNamespace(
        hf_config=config,
        using_transformers_backend=lambda: backend,
        pooler_config=SimpleNamespace(seq_pooling_type=pooling),
        multimodal_config=images and SimpleNamespace(get_limit_per_prompt=images.get),
    )


def parallel(size=1):
    return SimpleNamespace(tensor_parallel_size=size)


# --- What becomes of a model


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(decision.logger, "warning_once", said.append)
    return said


@pytest.mark.parametrize("value", [None, False, "none"])
def test_a_model_that_asks_for_nothing(value, warnings):
    config = llava_config() if value == "none" else with_pitome(llava_config(), value)
    before = config.to_dict()
    assert decision.decide(model_config(config), parallel(2)) is None
    assert config.to_dict() == before and not warnings


@pytest.mark.parametrize(
    "config, backend, expected",
    [
        (llava_config(), False, "llava"),
        (llava_config(), True, "transformers"),
        (vipllava_config(), True, "transformers"),
        (config_of("CLIPModel"), False, "clip"),
        (config_of("SiglipModel"), False, "siglip"),
    ],
    ids=["llava", "llava in the backend", "vipllava", "clip", "siglip"],
)
def test_what_merges(config, backend, expected, warnings, caplog):
    config = with_pitome(copy.deepcopy(config), {"ratio": 0.8})
    with caplog.at_level("INFO", "vllm"):
        assert decision.decide(model_config(config, backend), parallel()) == expected
    assert config.pitome == {"ratio": 0.8} and not warnings
    (said,) = caplog.messages
    # In the backend, the processor says how large pictures are.
    tokens = ": a picture takes 34 tokens of the prompt" if expected == "llava" else ""
    assert said.startswith(f"{config.model_type} merges tokens in its vision tower{tokens}")


@pytest.mark.parametrize(
    "config, settings, reason",
    [
        (BertConfig(), {}, "in vLLM, optimum_pitome merges in LLaVA, VipLLaVA, CLIP and SigLIP"),
        (BertConfig(), {"backend": True}, "in vLLM, optimum_pitome merges in"),
        (config_of("CLIPModel"), {"backend": True}, "needs vLLM's own class"),
        (config_of("CLIPModel"), {"pooling": "MEAN"}, "not pooling_type='MEAN'"),
        (llava_config(), {"images": {"image": 0}}, "limit_mm_per_prompt allows no images"),
    ],
    ids=["bert", "bert in the backend", "clip in the backend", "clip by means", "no images"],
)
def test_what_stays_dense(config, settings, reason, warnings):
    config = with_pitome(copy.deepcopy(config))
    for _ in range(2):
        assert decision.decide(model_config(config, **settings), parallel()) is None
    (message,) = warnings
    assert config.model_type in message and reason in message
    assert not decision.merges(config)


def test_tensor_parallelism():
    config = with_pitome(llava_config())
    assert decision.decide(model_config(config), parallel(2)) == "llava"
    with pytest.raises(ValueError, match="tensor_parallel_size=2 .*leave model_impl at 'auto'.*null"):
        decision.decide(model_config(config, backend=True), parallel(2))
    with pytest.raises(ValueError, match="use one device"):
        decision.decide(model_config(with_pitome(vipllava_config()), backend=True), parallel(2))


@pytest.mark.parametrize("name", ["LlavaForConditionalGeneration", "CLIPModel", "SiglipModel"])
@pytest.mark.parametrize("value", [1.5, {"ratios": 0.9}, {"ratio": [0.9, 0.8]}])
def test_settings_that_do_not_fit(name, value):
    with pytest.raises(ValueError, match="ratio"):
        decision.decide(model_config(with_pitome(config_of(name), value)), parallel())


# --- How long a prompt is


@pytest.mark.parametrize("value", [0.8, {"ratio": 0.7, "layers": [0, 2]}, {"flops_ratio": 1.5}])
@pytest.mark.parametrize("tower", ["clip", "siglip", "vit", pytest.param("dinov2", marks=needs_dinov2)])
def test_placeholders_are_as_many_as_features(tower, value):
    config = with_pitome(llava_config(tower), value)
    processor, owner = make_processor(), SimpleNamespace()
    # What a checkpoint with another tower would have in its processor.
    processor.num_additional_image_tokens = int(tower != "siglip")
    processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    short = placeholders.shorten_processor(processor, config, owner)
    number = num_image_tokens(config)
    assert number < NUM_PATCHES
    assert short._get_num_multimodal_tokens(image_sizes=[(40, 40)])["num_image_tokens"] == [number]
    inputs = short(images=[picture()], text="w10 <image> w11", return_tensors="pt")
    assert (inputs["input_ids"] == config.image_token_id).sum() == number
    assert vision.LlavaTower(config)(inputs["pixel_values"]).shape[:2] == (1, number)
    assert placeholders.count_image_tokens(config, owner) == number
    # vLLM has one processor for all.
    assert processor._get_num_multimodal_tokens(image_sizes=[(40, 40)])["num_image_tokens"] == [NUM_PATCHES]


@needs_dinov2
def test_placeholders_follow_the_size_that_the_processor_makes(warnings):
    """DINOv2's towers are configured for larger pictures than most processors make."""
    config, processor = with_pitome(llava_config("dinov2"), {"flops_ratio": 1.5}), make_processor()
    processor.num_additional_image_tokens = 1
    config.vision_config.image_size *= 2
    short = placeholders.shorten_processor(processor, config, SimpleNamespace())
    inputs = short(images=[picture()], text="w10 <image> w11", return_tensors="pt")
    number = int((inputs["input_ids"] == config.image_token_id).sum())
    assert number == num_image_tokens(config, inputs["pixel_values"].shape[-2:]) < NUM_PATCHES
    assert vision.LlavaTower(config)(inputs["pixel_values"]).shape[:2] == (1, number)


@pytest.mark.parametrize("config", [llava_config(), with_pitome(llava_config(), None), with_pitome(BertConfig())])
def test_other_processors_stay(config):
    processor = make_processor()
    assert placeholders.shorten_processor(processor, config, SimpleNamespace()) is processor
    assert placeholders.count_image_tokens(config, SimpleNamespace()) is None


# --- Towers


def weights_of(module, level):
    """Of a tower, as transformers saved them before and after the level went."""
    return [(level + name, value) for name, value in module.state_dict().items()]


@pytest.mark.parametrize("level", ["", "vision_model."])
@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_the_tower_of_a_llava(tower, level):
    config = with_pitome(llava_config(tower))
    model = AutoModelForImageTextToText.from_config(config).eval().model
    model.multi_modal_projector = torch.nn.Identity()
    ours = vision.LlavaTower(config)
    names = [(name.replace("vision_model.", ""), value) for name, value in model.vision_tower.state_dict().items()]
    assert ours.load_weights((level + name, value) for name, value in names) == dict(ours.named_parameters()).keys()
    pixel_values = image(3)
    expected = torch.stack(model.get_image_features(pixel_values, return_dict=True).pooler_output)
    assert torch.equal(ours(pixel_values, feature_select_strategy="default"), expected)


@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel"])
def test_the_tower_of_an_embedding_model(name):
    config = with_pitome(config_of(name))
    model = AutoModel.from_config(config).eval()
    ours = vision.PooledTower(config)
    ours.load_weights(model.vision_model.state_dict().items())
    size = config.vision_config.image_size
    pixel_values = torch.randn(2, 3, size, size)
    expected = model.vision_model(pixel_values).pooler_output
    assert torch.equal(ours(pixel_values, feature_select_strategy="class"), expected[:, None])
    dense = AutoModel.from_config(with_pitome(config, None)).eval()
    dense.load_state_dict(model.state_dict())
    assert not torch.allclose(expected, dense.vision_model(pixel_values).pooler_output, atol=1e-4)


def test_weights_that_are_no_weights_of_the_tower():
    tower = vision.LlavaTower(with_pitome(llava_config()))
    assert tower.load_weights([("embeddings.position_ids", torch.arange(3))]) == set()
    for name in ("encoder.layers.0.self_attn.q_proj.qweight", "pre_layrnorm.weight"):
        with pytest.raises(ValueError, match=rf"no weight '{name}' of shape \(1,\). Is it quantized"):
            tower.load_weights([(name, torch.zeros(1))])


# --- The plugin


def test_the_entry_point():
    parser = configparser.ConfigParser()
    parser.read(SETUP)
    name, _, target = parser["options.entry_points"]["vllm.general_plugins"].strip().partition(" = ")
    module, _, function = target.partition(":")
    assert name == "pitome" and getattr(importlib.import_module(module), function) is plugin.register
    assert {"optimum_pitome.integrations", "optimum_pitome.integrations.vllm"} <= set(
        parser["options"]["packages"].split()
    )


def test_registering_imports_nothing_heavy():
    script = (
        "import sys\nfrom optimum_pitome.integrations.vllm.plugin import register\nregister(); register()\n"
        "print(sorted({'torch', 'transformers', 'vllm'} & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_documentation_names_what_is_replaced():
    page = (SETUP.parent / "docs" / "serving.md").read_text(encoding="utf-8")
    hooks = {f"{module}.{owner}.{name}" for module, found in plugin._HOOKS.items() for owner, name in found}
    assert set(re.findall(r"^\| `(vllm\..*?)` \|", page, flags=re.MULTILINE)) == hooks
    assert all(version in page for version in plugin.TESTED)


class Tower:
    """A class of vLLM with all that the hooks replace."""

    def __init__(self, config):
        self.config, self.vision_tower = config, "vLLM's own"

    def load_weights(self, weights):
        return list(weights)

    def get_num_image_tokens(self, **size):
        return size


class ReplicatedLinear(torch.nn.Linear):
    """Takes the place of vLLM's."""

    def __init__(self, *sizes, bias, return_bias):
        super().__init__(*sizes, bias)
        assert return_bias is False  # else it returns a pair


@pytest.fixture
def llava_module(monkeypatch):
    """Makes a module that stands for vLLM's, with the hooks installed as when it is imported."""

    def make(**classes):
        module = types.ModuleType("vllm.model_executor.models.llava")
        vars(module).update(classes)
        for part in ("vllm", "vllm.model_executor", "vllm.model_executor.models"):
            monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        sys.modules["vllm"].__version__ = "0.99"
        monkeypatch.setitem(sys.modules, "vllm.model_executor.layers", types.ModuleType("layers"))
        linear = types.ModuleType("linear")
        linear.ReplicatedLinear = ReplicatedLinear
        monkeypatch.setitem(sys.modules, "vllm.model_executor.layers.linear", linear)
        plugin._install(module.__name__, module)
        return module

    return make


def test_a_vllm_that_changed(llava_module):
    """A model that asks for nothing is served as ever; one that does gets a message."""
    module = llava_module(LlavaForConditionalGeneration=type("Changed", (Tower,), {}))
    assert not hasattr(module.LlavaForConditionalGeneration.__init__, wrap._MARK)
    with pytest.raises(
        RuntimeError, match=r"this vLLM \(0.99\).*no LlavaProcessingInfo.get_num.*tested with vLLM 0.32"
    ):
        plugin.require("llava")


def test_hooks_do_nothing_for_dense_models(llava_module):
    model_class, info_class = type("Model", (Tower,), {}), type("Info", (Tower,), {"get_hf_config": llava_config})
    module = llava_module(LlavaForConditionalGeneration=model_class, LlavaProcessingInfo=info_class)
    plugin.require("llava")
    model = module.LlavaForConditionalGeneration(llava_config())
    assert model.vision_tower == "vLLM's own"
    assert model.load_weights([("model.vision_tower.encoder", 1)]) == [("model.vision_tower.encoder", 1)]
    info = module.LlavaProcessingInfo(None)
    info.get_hf_config = llava_config
    assert info.get_num_image_tokens(image_width=1, image_height=2) == {"image_width": 1, "image_height": 2}


def test_hooks_of_a_model_that_merges(llava_module):
    module = llava_module(
        LlavaForConditionalGeneration=type("Model", (Tower,), {}), LlavaProcessingInfo=type("Info", (Tower,), {})
    )
    config = with_pitome(llava_config())
    model = module.LlavaForConditionalGeneration(config)
    assert isinstance(model.vision_tower, vision.LlavaTower)
    kinds = {type(module) for module in model.vision_tower.modules() if isinstance(module, torch.nn.Linear)}
    assert kinds == {ReplicatedLinear}
    assert model.vision_tower(image(2)).shape[:2] == (2, num_image_tokens(config))
    info = module.LlavaProcessingInfo(None)
    info.get_hf_config = lambda: config
    assert info.get_num_image_tokens(image_width=1, image_height=2) == num_image_tokens(config)


def test_names_of_weights(llava_module):
    """vLLM 0.32 knows towers with one level more than transformers saves since 5.19."""
    module = llava_module(
        LlavaForConditionalGeneration=type("Model", (Tower,), {}), LlavaProcessingInfo=type("Info", (Tower,), {})
    )
    model = module.LlavaForConditionalGeneration(llava_config())
    model.vision_tower = SimpleNamespace(vision_model=None)
    names = ["model.vision_tower.a", "vision_tower.vision_model.b", "language_model.c"]
    found = [name for name, _ in model.load_weights((name, None) for name in names)]
    assert found == ["model.vision_tower.vision_model.a", "vision_tower.vision_model.b", "language_model.c"]


def test_a_tower_that_went_elsewhere(llava_module):
    model_class = type("Model", (Tower,), {"__init__": lambda self, config: setattr(self, "config", config)})
    module = llava_module(LlavaForConditionalGeneration=model_class, LlavaProcessingInfo=type("Info", (Tower,), {}))
    with pytest.raises(RuntimeError, match="has no Model.vision_tower"):
        module.LlavaForConditionalGeneration(with_pitome(llava_config()))
