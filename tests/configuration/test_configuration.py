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

"""Whatever is passed as `pitome=` becomes a configuration that survives being saved, or an error for people."""

import copy
import inspect
import json
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from modeling.helpers import build
from transformers import AutoConfig, BertConfig, CLIPVisionConfig, ViTConfig

from optimum_pitome import PiToMeConfig, apply_pitome
from optimum_pitome.configuration.checks import show
from optimum_pitome.configuration.config import configurations
from optimum_pitome.configuration.fields import FIELDS
from optimum_pitome.modeling import registry
from optimum_pitome.modeling.registry import find_architecture


class Hostile:
    """Every way to look at it fails, or gives far too much."""

    def __repr__(self):
        raise RuntimeError("no repr")

    __str__ = __len__ = __iter__ = __float__ = __int__ = __index__ = __repr__


class Endless:
    def __repr__(self):
        return "e" * 10**7


class Words(list):
    def __repr__(self):
        return "w" * 10**7


def nested(key, depth=300):
    value = 0.9
    for _ in range(depth):
        value = {key: value}
    return value


def inside_itself():
    value = {}
    value["vision"] = value
    return value


def changed(**fields):
    config = PiToMeConfig()
    for name, value in fields.items():
        setattr(config, name, value)
    return config


HOSTILE = [
    Hostile(),
    Endless(),
    Words([0.9]),
    [Hostile()] * 3,
    10**400,
    -(10**400),
    10**5000,
    float("nan"),
    float("inf"),
    -0.0,
    "x" * 10**7,
    b"x" * 10**7,
    "\ud800",
    "a\0b",
    [0.9] * 10**6,
    list(range(10**6)),
    range(10**9),
    set(range(10**5)),
    {str(i): 0.9 for i in range(10**5)},
    {i: i for i in range(10**5)},
    {"x" * 10**6: 0.9},
    {"\ud800": 0.9},
    {"self": 1},
    {"kwargs": {}},
    {1: 2},
    {None: 0.9},
    {("ratio",): 0.9},
    {"dtype": "evil"},
    {"dtype": "float16"},
    {"id2label": 3},
    {"parts": {"vision": {"dtype": "float16"}}},
    {"parts": {"vision": {"attn_implementation": "eager"}}},
    {"parts": {"vision": {"parts": {"text": 0.9}}}},
    {"format_version": 10**5000},
    {"format_version": "9" * 5000},
    {"format_version": "1.99", 5: 5},
    nested("vision"),
    nested("parts"),
    inside_itself(),
    np.float16(0.9),
    np.float32(0.85),
    np.float64(0.9),
    np.longdouble(0.9),
    np.int64(1),
    np.bool_(True),
    np.array(0.9),
    np.linspace(1, 0.8, 4),
    np.ones((2, 2)),
    np.array(["tome"]),
    np.array([Hostile()], dtype=object),
    np.ones(10**6),
    torch.tensor(0.85),
    torch.tensor([0.9, 0.8], requires_grad=True),
    torch.tensor(0.875, dtype=torch.bfloat16),
    torch.empty(3, device="meta"),
    torch.ones(10**6),
    torch.float16,
    Fraction(9, 10),
    9j,
    object,
    print,
    (0.9, 0.8),
    [[0.9]],
    changed(ratio=Hostile()),
    changed(ratio=np.float32(0.85), layers=np.arange(2)),
    changed(parts={"vision": "high"}),
    PiToMeConfig.official(0.8).to_dict(),
    PiToMeConfig(parts={"vision": 0.8, "text": PiToMeConfig(0.7)}),
]

anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.floats(0.5, 1),
        st.text(st.characters(), max_size=20),
        st.integers(0, len(HOSTILE) - 1).map(
            lambda index: HOSTILE[index]
        ),  # hypothesis writes down what it samples from
        st.sampled_from(["tome", "pitome", "nearest", "elu", "keys", "official", "1.0", "1.5", "google/vit"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.sampled_from([*FIELDS, "vision", "text", "audio", "ratoi", "model_type", "dtype"]),
                st.text(max_size=5),
                st.integers(),
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)
many_examples = settings(max_examples=400, suppress_health_check=list(HealthCheck))


def read(value):
    """The configuration, or the message."""
    start = time.process_time()
    try:
        config = PiToMeConfig.from_value(value)
    except ValueError as error:
        config = str(error)
        assert len(config) < 2000 and config.encode()
    assert time.process_time() - start < 0.5, show(value)
    return config


def assert_survives(config, folder):
    assert config.ratio and isinstance(config, PiToMeConfig)
    assert PiToMeConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert PiToMeConfig.from_value(json.loads(json.dumps(config.to_pitome_dict()))) == config
    assert PiToMeConfig.from_value(config.to_dict()) == config
    config.save_pretrained(folder)
    for again in (PiToMeConfig.from_pretrained(folder), AutoConfig.from_pretrained(folder)):
        assert again == config and again.to_pitome_dict() == config.to_pitome_dict()


# Not the values as names: those of sets differ between the processes of pytest-xdist.
@pytest.mark.parametrize("value", HOSTILE, ids=[f"{i}-{type(value).__name__}" for i, value in enumerate(HOSTILE)])
def test_hostile_values(value, tmp_path):
    for number, passed in enumerate((value, {"ratio": value}, {"parts": {"vision": value}}, {"vision": value})):
        found = read(passed)
        if isinstance(found, str):
            assert any(name in found for name in ("pitome=", *FIELDS))
        elif found is not None:
            assert_survives(found, tmp_path / str(number))


@pytest.mark.parametrize("field", FIELDS)
@given(value=anything)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_a_field_of_any_value(field, value, tmp_path_factory):
    for passed in ({field: value}, {"parts": {"vision": {field: value}}}):
        found = read(passed)
        if isinstance(found, str):
            assert field in found
        else:
            assert_survives(found, tmp_path_factory.mktemp("saved"))


@given(value=anything)
@example(value={"ratio": 0.9, "vision": 0.8})
@many_examples
def test_anything(value, tmp_path_factory):
    found = read(value)
    if isinstance(found, str):
        assert any(name in found for name in ("pitome=", *FIELDS))
    elif found is not None:
        assert_survives(found, tmp_path_factory.mktemp("saved"))


@pytest.mark.parametrize("value", [0.85, np.float32(0.85), np.float16(0.85), np.float64(0.85), torch.tensor(0.85)])
def test_a_number_is_what_was_written(value):
    """0.85 as a float32 is 0.8500000238418579, of which 20 tokens would lose 2 instead of 3."""
    assert PiToMeConfig(value).ratio == 0.85 and type(PiToMeConfig(value).ratio) is float
    assert PiToMeConfig([value, 1]).ratio == [0.85, 1.0]
    assert PiToMeConfig.from_value({"vision": value}).parts == {"vision": {"ratio": 0.85}}


def test_arrays_are_lists():
    config = PiToMeConfig(np.linspace(1, 0.7, 4), layers=np.arange(4), margin=torch.tensor([0.5, 0.25, 0, -0.5]))
    assert config.ratio == pytest.approx([1, 0.9, 0.8, 0.7]) and config.layers == [0, 1, 2, 3]
    assert config.margin == [0.5, 0.25, 0.0, -0.5]
    assert PiToMeConfig(layers=range(3), min_tokens=np.int64(4)).to_pitome_dict()["layers"] == [0, 1, 2]


def test_a_configuration_that_was_changed_is_checked_again(tmp_path):
    config = PiToMeConfig(0.8)
    assert PiToMeConfig.from_value(config) is config
    config.ratio = 0.2
    with pytest.raises(ValueError, match="ratio=0.2 is out of range"):
        apply_pitome(torch.nn.Identity(), config)
    config.ratio = np.float64(0.75)
    assert type(PiToMeConfig.from_value(config).ratio) is float
    config.ratio = None
    with pytest.raises(ValueError, match="ratio=None: expected a number"):
        PiToMeConfig.from_value(config)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda config: config.ratio.append(0.2), r"ratio\[2\]=0.2 is out of range"),
        (lambda config: config.layers.append(0), "names a layer twice"),
        (lambda config: config.parts["text"].update(ratio=2), r"parts\['text'\]: ratio=2 is out of range"),
        (lambda config: setattr(config, "unmerge", 1), "unmerge=1: expected True, False"),
    ],
)
def test_a_change_inside_a_configuration_is_noticed(change, message):
    config = PiToMeConfig([0.9, 0.8], layers=[0, 1], unmerge=True, parts={"text": 0.9})
    assert PiToMeConfig.from_value(copy.deepcopy(config)) == config
    change(config)
    with pytest.raises(ValueError, match=message):
        PiToMeConfig.from_value(config)


def test_configurations_share_nothing():
    first = PiToMeConfig()
    first.id2label[0] = "changed"
    first.model_arguments["dtype"] = "float16"
    assert PiToMeConfig().id2label[0] == "LABEL_0" and not PiToMeConfig().model_arguments
    assert vars(PiToMeConfig()).keys() == vars(PiToMeConfig(num_labels=3)).keys()


def test_the_fields_are_documented():
    signature = inspect.signature(PiToMeConfig)
    assert list(signature.parameters) == list(FIELDS)
    for name, parameter in signature.parameters.items():
        assert parameter.default == FIELDS[name].default == getattr(PiToMeConfig(), name)
        assert f"        {name} (`" in PiToMeConfig.__doc__
    assert "ratio (`float` or `list[float]`, *optional*, defaults to `0.9`):" in PiToMeConfig.__doc__
    assert PiToMeConfig(0.8, [1]) == PiToMeConfig(layers=[1], ratio=0.8)
    with pytest.raises(TypeError, match="multiple values for argument 'ratio'"):
        PiToMeConfig(0.8, ratio=0.9)


def test_the_readme_has_every_field():
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = text[text.index("## Settings") : text.index("## Development")]
    assert [name for name in FIELDS if f"`{name}`" not in table] == ["format_version"]


UNDERSTOOD = {
    "a part of anybody's": ({"audio": 0.9}, {"audio": {"ratio": 0.9}}),
    "several": ({"audio": {"ratio": 0.8}, "video": None}, {"audio": {"ratio": 0.8}}),
    "a configuration": ({"speech": PiToMeConfig(0.7)}, {"speech": {"ratio": 0.7}}),
    "the defaults": ({"vision": {}}, {"vision": {}}),
}


@pytest.mark.parametrize("what", UNDERSTOOD)
def test_parts_by_name(what):
    value, parts = UNDERSTOOD[what]
    assert PiToMeConfig.from_value(value).parts == parts


def test_a_part_that_an_architecture_names(monkeypatch):
    model = build("ViTForImageClassification")
    architecture = replace(find_architecture(model.vit), part="audio")
    monkeypatch.setitem(registry._ARCHITECTURES, type(model.vit), architecture)
    apply_pitome(model, {"audio": 0.8})
    assert model.config.pitome["parts"] == {"audio": {"ratio": 0.8}}
    assert [spec.ratio.is_dense for spec in model.vit.pitome.specs] == [False] * 4
    with pytest.raises(ValueError, match="no part 'vision'. Parts of this model that can merge: 'audio'"):
        apply_pitome(model, {"vision": 0.8})


MISUNDERSTOOD = {
    "misspelt": ({"ratoi": 0.9}, ["no field 'ratoi'", "Did you mean 'ratio'?"]),
    "misspelt, a dict": ({"layer": {"ratio": 0.9}}, ["no field 'layer'", "Did you mean 'layers'?"]),
    "misspelt beside a part": ({"vision": 0.9, "alhpa": 1.0}, ["no field 'alhpa'", "Did you mean 'alpha'?"]),
    "a part beside a field": ({"ratio": 0.9, "audio": 0.8}, ["no field 'audio'", "{'parts': {'audio': 0.8}}"]),
    "misspelt in a part": ({"audio": {"ration": 0.9}}, ["parts['audio']", "no field 'ration'", "'ratio'?"]),
    "no settings": ({"audio": "high"}, ["no field 'audio'", "Fields: ratio"]),
    "no settings of a known part": ({"vision": "high"}, ["parts['vision']", "'high' is not understood"]),
    "for loading": ({"ratio": 0.9, "dtype": "float16"}, ["no field 'dtype'", "pass it to from_pretrained"]),
    "parts of a part": ({"vision": {"parts": {"text": 0.9}}}, ["parts['vision']", "has no parts of its own"]),
    "no name": ({"ratio": 0.9, 1: 2}, ["no field 1", "Fields: ratio"]),
}


@pytest.mark.parametrize("what", MISUNDERSTOOD)
def test_what_is_not_understood(what):
    value, parts = MISUNDERSTOOD[what]
    with pytest.raises(ValueError) as error:
        PiToMeConfig.from_value(value)
    for part in parts:
        assert part in str(error.value), str(error.value)


def test_reading_from_the_checkpoint_of_a_model(tmp_path, caplog):
    config = ViTConfig()
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a 'vit' model without a `pitome` entry.*base_model_name_or_path"):
        PiToMeConfig.from_pretrained(tmp_path)
    config.pitome = PiToMeConfig(0.8, layers=[0]).to_pitome_dict()
    config.save_pretrained(tmp_path)
    assert PiToMeConfig.from_pretrained(tmp_path) == PiToMeConfig(0.8, layers=[0])
    config.pitome = {"ratio": 0.1}
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="ratio=0.1 is out of range"):
        PiToMeConfig.from_pretrained(tmp_path)


def test_what_transformers_refuses_is_named():
    with pytest.raises(ValueError, match="transformers refuses {'dtype': 'evil'} in a PiToMeConfig"):
        PiToMeConfig(dtype="evil")


def test_configurations_in_a_configuration():
    from transformers import VisionTextDualEncoderConfig

    config = VisionTextDualEncoderConfig.from_vision_text_configs(CLIPVisionConfig(), BertConfig())
    config.pitome = PiToMeConfig(0.9)  # where an auto class puts the keyword
    assert dict(configurations(config)) == {
        "": config,
        "vision_config": config.vision_config,
        "text_config": config.text_config,
    }
