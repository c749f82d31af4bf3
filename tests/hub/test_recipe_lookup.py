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

"""Whom the arguments of a load belong to, the recipe or its model; recipes of recipes."""

import json
import shutil

import pytest
import torch
from hub.test_loading import checkpoint, ratio_of  # noqa: F401
from hub.test_recipes import HAS_IMAGE_PROCESSORS, recipe, text_recipe  # noqa: F401
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)
from transformers.integrations.peft import MIN_PEFT_VERSION
from transformers.utils.peft_utils import check_peft_version
from zoo.vit import SIZES, pixel_values

from optimum_pitome import PiToMeConfig, PiToMeForImageClassification
from optimum_pitome.hub.recipe_lookup import MAX_RECIPES


NEW_HEAD = {"ignore_mismatched_sizes": True}
ARGUMENTS = [
    {"dtype": torch.float16},
    {"dtype": "bfloat16"},
    {"dtype": "auto"},
    {"attn_implementation": "eager"},
    {"attn_implementation": {"": "eager"}},
    {"num_labels": 5, **NEW_HEAD},
    {"num_labels": 5},  # the checkpoint's head does not fit
    {"id2label": {0: "cat", 1: "dog", 2: "fish"}, "label2id": {"cat": 0, "dog": 1, "fish": 2}},
    {"id2label": {0: "cat", 1: "dog"}, **NEW_HEAD},
    {"output_hidden_states": True},
    {"output_attentions": True, "attn_implementation": "eager"},
    {"return_dict": False},
    {"problem_type": "multi_label_classification"},
    {"chunk_size_feed_forward": 1},
    {"hidden_dropout_prob": 0.25, "layer_norm_eps": 1e-3},
    {"output_loading_info": True},
    {"device_map": "cpu"},
    {"device_map": {"": "cpu"}, "max_memory": {"cpu": "1GB"}},
    {"device_map": {"vit": "disk", "classifier": "cpu"}, "offload_folder": "offloaded", "offload_buffers": True},
    {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)},  # not installed
    {"trust_remote_code": True},
    {"trust_remote_code": False, "code_revision": "main"},
    {"revision": "main", "subfolder": "", "force_download": True, "proxies": None},
    {"local_files_only": True, "token": "hf_none", "cache_dir": "nowhere"},
    {"use_safetensors": True, "weights_only": True, "low_cpu_mem_usage": True},
    {"use_safetensors": False},  # there is no other file
    {"variant": "fp8"},  # nor this one
    {"key_mapping": {"^classifier": "classifier"}},
    {"state_dict": {}},  # refused beside a path
    {"no_such_argument": 1},
    {"pitome": 0.9},
    {"pitome": False, "dtype": torch.float16},
    {"pitome": None},
    {"pitome": {"ration": 0.9}},
    {"adapter_kwargs": {}},
    {"config": ViTConfig(**{**SIZES, "num_labels": 4, "num_hidden_layers": 2}), **NEW_HEAD},
]


def outcome(load, name, arguments):
    """What a load comes to: all that arguments can change of a model, or the type of the error."""
    try:
        loaded = load(name, **arguments)
    except Exception as error:
        return type(error)
    model, info = loaded if isinstance(loaded, tuple) else (loaded, None)
    assert isinstance(model, PreTrainedModel)
    weights = {key: (value.dtype, value.shape) for key, value in model.state_dict().items()}
    return type(model), model.config.to_dict(), model.config._attn_implementation, ratio_of(model), weights, info


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda arguments: "-".join(arguments))
@pytest.mark.parametrize("way", ["auto", "variant", "concrete"])
def test_arguments_belong_to_the_model(checkpoint, recipe, way, arguments, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    load = (ViTForImageClassification if way == "concrete" else AutoModelForImageClassification).from_pretrained
    expected = outcome(load, checkpoint, {"pitome": 0.8, **arguments})
    load = PiToMeForImageClassification.from_pretrained if way == "variant" else load
    assert outcome(load, recipe, arguments) == expected


def test_fields_of_the_recipe_are_the_recipes(recipe):  # noqa: F811
    for load in (
        AutoModelForImageClassification.from_pretrained,
        PiToMeForImageClassification.from_pretrained,
        ViTForImageClassification.from_pretrained,
    ):
        assert load(recipe, ratio=0.9, min_tokens=20).config.pitome["min_tokens"] == 20
        with pytest.raises(ValueError, match="ratio=0.2 is out of range"):
            load(recipe, ratio=0.2)


def test_what_a_configuration_was_asked_for_reaches_the_model(checkpoint, recipe, tmp_path):  # noqa: F811
    asked = {"num_labels": 5, "hidden_dropout_prob": 0.25, "finetuning_task": "pets", "output_hidden_states": True}
    config = AutoConfig.from_pretrained(recipe, **asked)
    for auto_class in (AutoModel, AutoModelForImageClassification):
        base_config = AutoConfig.from_pretrained(checkpoint, **asked)
        expected = auto_class.from_pretrained(checkpoint, config=base_config, pitome=0.8, **NEW_HEAD)
        model = auto_class.from_pretrained(recipe, config=config, **NEW_HEAD)
        assert model.config.to_dict() == expected.config.to_dict() and ratio_of(model) == 0.8
        assert (model.config.num_labels, model.config.hidden_dropout_prob) == (5, 0.25)
        how = {"attn_implementation": "eager", "dtype": torch.float16}
        expected = auto_class.from_config(base_config, pitome=0.8, **how)
        model = auto_class.from_config(config, **how)
        assert model.config.to_dict() == expected.config.to_dict()
        assert (model.dtype, model.config._attn_implementation) == (torch.float16, "eager")
    dense = AutoConfig.from_pretrained(recipe, pitome=False)
    assert ratio_of(AutoModelForImageClassification.from_config(dense)) is None
    assert ratio_of(AutoModelForImageClassification.from_pretrained(recipe, config=dense)) is None
    assert ratio_of(ViTForImageClassification.from_pretrained(recipe, config=config, **NEW_HEAD)) == 0.8
    config.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == (recipe / "config.json").read_text()
    config, unused = AutoConfig.from_pretrained(recipe, ratio=0.7, return_unused_kwargs=True, **asked)
    assert config.ratio == 0.7 and unused == asked


@pytest.mark.skipif(not HAS_IMAGE_PROCESSORS, reason="this transformers has no AutoImageProcessor without torchvision")
@pytest.mark.parametrize(
    "arguments",
    [
        {"model_kwargs": {"attn_implementation": "eager", "output_attentions": True}},
        {"model_kwargs": {"output_hidden_states": True}, "dtype": torch.float16},
        {"model_kwargs": {"cache_dir": "nowhere"}, "device_map": "cpu", "trust_remote_code": True},
        {"revision": "main", "token": None},
        {"model_kwargs": {"pitome": 0.9}},
    ],
    ids=lambda arguments: "-".join([*arguments, *arguments.get("model_kwargs", [])]),
)
def test_arguments_of_pipelines(checkpoint, recipe, arguments):  # noqa: F811
    def load(name, **arguments):
        return pipeline("image-classification", model=str(name), **arguments).model

    arguments = {"model_kwargs": {}, **arguments}
    expected = outcome(load, checkpoint, {**arguments, "model_kwargs": {"pitome": 0.8, **arguments["model_kwargs"]}})
    assert isinstance(expected, tuple) and outcome(load, recipe, arguments) == expected


@pytest.mark.parametrize("names", ["recipe", "model"])
def test_an_adapter_beside_the_recipe_or_of_the_recipe(checkpoint, recipe, tmp_path, names):  # noqa: F811
    peft = pytest.importorskip("peft")
    try:
        check_peft_version(MIN_PEFT_VERSION)
    except ValueError as error:
        pytest.skip(str(error))
    lora = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False, r=2)
    tuned = ViTForImageClassification.from_pretrained(checkpoint, pitome=0.8)
    tuned.add_adapter(lora)
    folder = recipe if names == "model" else tmp_path / "adapter"
    tuned.save_pretrained(folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(recipe if names == "recipe" else checkpoint)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    images = pixel_values(2)
    with torch.no_grad():
        expected = tuned.eval()(**images).logits
        model, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
        assert ratio_of(model) == 0.8 and torch.equal(model(**images).logits, expected)
        assert not info["missing_keys"]
        if names == "model":
            for load in (PiToMeForImageClassification.from_pretrained, ViTForImageClassification.from_pretrained):
                assert torch.equal(load(folder)(**images).logits, expected)


def test_arguments_of_tokenizers_and_processors(text_recipe, recipe):  # noqa: F811
    for auto_class in (AutoTokenizer, AutoProcessor):
        tokenizer = auto_class.from_pretrained(text_recipe, padding_side="left", model_max_length=7, revision="main")
        assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 7)
    if HAS_IMAGE_PROCESSORS:
        size = {"height": 16, "width": 16}
        for auto_class in (AutoImageProcessor, AutoProcessor):
            assert auto_class.from_pretrained(recipe, size=size, trust_remote_code=True).size == size
        processor, unused = AutoImageProcessor.from_pretrained(recipe, size=size, unknown=1, return_unused_kwargs=True)
        assert processor.size == size and unused["unknown"] == 1
        config = AutoConfig.from_pretrained(recipe)
        assert AutoImageProcessor.from_pretrained(recipe, config=config).size == {"height": 32, "width": 32}


def make_recipe(folder, base, **settings):
    PiToMeConfig(base_model_name_or_path=str(base), **settings).save_pretrained(folder)
    return folder


LOADERS = {
    "AutoModel": AutoModel.from_pretrained,
    "PiToMeForImageClassification": PiToMeForImageClassification.from_pretrained,
    "ViTForImageClassification": ViTForImageClassification.from_pretrained,
    "from_config": lambda folder: AutoModel.from_config(AutoConfig.from_pretrained(folder)),
    "AutoTokenizer": AutoTokenizer.from_pretrained,
    "AutoProcessor": AutoProcessor.from_pretrained,
}
if HAS_IMAGE_PROCESSORS:
    LOADERS["AutoImageProcessor"] = AutoImageProcessor.from_pretrained


@pytest.mark.parametrize("name", LOADERS)
def test_recipes_that_lead_back_to_themselves(tmp_path, name):
    a, b, c = (tmp_path / letter for letter in "abc")
    for folder, base in ((a, b), (b, c), (c, b)):
        make_recipe(folder, base)
    with pytest.raises(ValueError, match="never come to a model: .*/a -> .*/b -> .*/c -> .*/b. Set base_model_name"):
        LOADERS[name](a)
    with pytest.raises(ValueError, match="never come to a model"):  # nothing is left of the first attempt
        LOADERS[name](b)


@pytest.mark.parametrize("name", LOADERS)
def test_a_chain_of_recipes_has_an_end(checkpoint, text_recipe, tmp_path, name):  # noqa: F811
    base = text_recipe if name == "AutoTokenizer" else checkpoint
    number = MAX_RECIPES - (name == "AutoTokenizer")
    for index in range(number + 1):
        base = make_recipe(tmp_path / f"recipe-{index}", base, ratio=0.6 + index / 100)
        if index == number - 1:
            loaded = LOADERS[name](base)
    if hasattr(loaded, "config"):  # the settings of the first one
        assert loaded.config.pitome["ratio"] == 0.6 + (number - 1) / 100
    with pytest.raises(ValueError, match=f"name each other are more than {MAX_RECIPES}: .*/recipe-{number} -> "):
        LOADERS[name](base)


def test_a_recipe_in_the_repository_of_its_model(checkpoint, tmp_path):  # noqa: F811
    shutil.copytree(checkpoint, tmp_path / "vit")
    make_recipe(tmp_path / "vit" / "faster", tmp_path / "vit", ratio=0.8)
    loaders = [AutoModelForImageClassification, PiToMeForImageClassification, ViTForImageClassification]
    for loader in loaders:
        assert ratio_of(loader.from_pretrained(tmp_path / "vit", subfolder="faster")) == 0.8
    make_recipe(tmp_path / "vit" / "circle", tmp_path / "loop")
    make_recipe(tmp_path / "loop", tmp_path / "loop")
    with pytest.raises(ValueError, match="never come to a model: .*/vit/circle -> .*/loop -> .*/loop"):
        AutoModel.from_pretrained(tmp_path / "vit", subfolder="circle")


def test_what_is_no_recipe_keeps_its_own_error(checkpoint, recipe, tmp_path):  # noqa: F811
    with pytest.raises(ValueError, match="is no PiToMe recipe: the model_type in its config.json is 'vit'"):
        PiToMeForImageClassification.from_pretrained(checkpoint)
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "config.json").write_text("[1, 2]")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text("no JSON")
    for folder in ("list", "text", "nowhere"):
        errors = []
        with pytest.raises(Exception) as plain:
            PreTrainedModel.from_pretrained.__wrapped__(ViTForImageClassification, tmp_path / folder)
        with pytest.raises(Exception) as ours:
            ViTForImageClassification.from_pretrained(tmp_path / folder)
        errors.append((plain.value, ours.value))
        if HAS_IMAGE_PROCESSORS:
            with pytest.raises(Exception) as plain:
                AutoImageProcessor.from_pretrained.__wrapped__(AutoImageProcessor, tmp_path / folder)
            with pytest.raises(Exception) as ours:
                AutoImageProcessor.from_pretrained(tmp_path / folder)
            errors.append((plain.value, ours.value))
        for plain, ours in errors:
            assert type(ours) is type(plain) and str(ours) == str(plain)
    make_recipe(tmp_path / "orphan", tmp_path / "gone")
    with pytest.raises(OSError, match="gone"):
        ViTForImageClassification.from_pretrained(tmp_path / "orphan")


def test_a_model_that_is_not_there(tmp_path):
    missing = str(tmp_path / "missing")
    PiToMeConfig(ratio=0.9, base_model_name_or_path=missing).save_pretrained(tmp_path / "recipe")
    with pytest.raises(OSError, match=f"^The PiToMe recipe '.*recipe' names '{missing}', which did not load: "):
        AutoModel.from_pretrained(tmp_path / "recipe")
