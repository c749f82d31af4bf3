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

"""Backbones of saved folders: through `AutoBackbone`, and inside models with a `backbone_config`."""

import pytest
from families.test_parity import largest_difference, run
from transformers import AutoBackbone, AutoConfig
from transformers.backbone_utils import BackboneMixin
from transformers.models.auto import auto_factory
from zoo import all_cases

from optimum_pitome import apply_pitome
from optimum_pitome.modeling.rewrite import rewritten_encoders


CASES = all_cases()
BACKBONES = [case for case in CASES if issubclass(case.model_class, BackboneMixin)]
AROUND = [case for case in CASES if getattr(case.config(), "backbone_config", None) is not None]
SETTINGS = {"ratio": 0.8, "layers": [0, 1]}


@pytest.fixture
def folders_are_repositories(monkeypatch):
    """`AutoBackbone` asks the Hub whether there is such a repository, even of a folder, and takes what is none for a
    name of timm. The answer is the only thing that is replaced."""

    class Api:
        def repo_exists(self, name):
            return True

    monkeypatch.setattr(auto_factory, "hf_api", Api)


def test_there_are_backbones_of_several_families():
    assert {"pixio", "vitpose_backbone"} <= {case.config().model_type for case in BACKBONES}
    assert "vitpose" in {case.config().model_type for case in AROUND}


@pytest.mark.parametrize("case", BACKBONES, ids=lambda case: case.id)
def test_auto_backbone_takes_the_keyword(case, folders_are_repositories, tmp_path):
    model, inputs = case.build(), case.inputs(2)
    dense = run(model, inputs)
    model.save_pretrained(tmp_path / "dense")
    loaded = AutoBackbone.from_pretrained(str(tmp_path / "dense"), pitome=SETTINGS).eval()
    assert type(loaded) is case.model_class
    merged = run(apply_pitome(model, SETTINGS), inputs)
    assert largest_difference(run(loaded, inputs), merged) < 1e-5
    assert largest_difference(merged, dense) > 1e-6
    assert all(value.shape == dense[name].shape for name, value in merged.items())
    loaded.save_pretrained(tmp_path / "merged")
    again = AutoBackbone.from_pretrained(str(tmp_path / "merged")).eval()
    assert largest_difference(run(again, inputs), merged) < 1e-5
    without = AutoBackbone.from_pretrained(str(tmp_path / "merged"), pitome=False).eval()
    assert not rewritten_encoders(without) and largest_difference(run(without, inputs), dense) < 1e-5


@pytest.mark.parametrize("case", BACKBONES, ids=lambda case: case.id)
def test_auto_backbone_reads_the_stages_that_it_is_asked_for(case, folders_are_repositories, tmp_path):
    case.build().save_pretrained(tmp_path)
    model = AutoBackbone.from_pretrained(str(tmp_path), pitome=0.8, out_indices=[1, 2]).eval()
    found = run(model, case.inputs(2))
    assert [name for name in found if name.startswith("feature_maps")] == ["feature_maps.0", "feature_maps.1"]
    assert len(rewritten_encoders(model)) == 1


@pytest.mark.parametrize("case", AROUND, ids=lambda case: case.id)
def test_models_around_a_backbone_load_merged(case, tmp_path):
    model, inputs = case.build(), case.inputs(2)
    model.save_pretrained(tmp_path / "dense")
    assert AutoConfig.from_pretrained(tmp_path / "dense").backbone_config is not None
    loaded = case.model_class.from_pretrained(tmp_path / "dense", pitome=SETTINGS).eval()
    assert len(rewritten_encoders(loaded)) == 1
    merged = run(apply_pitome(model, SETTINGS), inputs)
    assert largest_difference(run(loaded, inputs), merged) < 1e-5
    loaded.save_pretrained(tmp_path / "merged")
    assert largest_difference(run(case.model_class.from_pretrained(tmp_path / "merged").eval(), inputs), merged) < 1e-5
