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

import importlib.metadata

import pytest
import transformers
from modeling.helpers import build
from packaging.requirements import Requirement
from packaging.version import Version

from optimum_pitome import apply_pitome
from optimum_pitome.hub import loading
from optimum_pitome.modeling import rewrite
from optimum_pitome.modeling.registry import find_architecture
from optimum_pitome.modeling.requirements import supported


def test_the_range_is_the_one_of_the_package():
    requirement = Requirement(supported("transformers"))
    assert Version(transformers.__version__) in requirement.specifier and str(requirement.specifier).count(",") == 1
    declared = [Requirement(line) for line in importlib.metadata.requires("optimum_pitome")]
    assert requirement.specifier == next(item.specifier for item in declared if item.name == "transformers")
    assert supported("torch").startswith("torch>=")


def test_without_having_been_installed(monkeypatch):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    supported.cache_clear()
    monkeypatch.setattr(importlib.metadata, "requires", requires)
    try:
        assert "install_requires" in supported("transformers")
    finally:
        supported.cache_clear()


def test_messages_name_the_range(monkeypatch):
    """The messages themselves name the versions; they point to no table elsewhere."""

    class Modeling:
        class PreTrainedModel:
            pass

    with pytest.raises(RuntimeError, match="no from_pretrained.*Install transformers>=5.*,<6, or a newer"):
        loading.install(Modeling)
    model = build()
    layer_class = find_architecture(model).dense_layer_class
    monkeypatch.setattr(layer_class, "forward", lambda self, hidden_states, something_new: hidden_states)
    with pytest.raises(rewrite.UnsupportedArchitectureError, match="made for transformers>=5.*,<6: install another"):
        apply_pitome(model, 0.9)
