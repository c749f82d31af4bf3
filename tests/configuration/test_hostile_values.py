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

import json
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from optimum_pitome import PiToMeConfig
from optimum_pitome.configuration.checks import show
from optimum_pitome.configuration.fields import FIELDS


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
