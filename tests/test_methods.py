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

"""Algorithms and energies of a user: from `register_algorithm` to a checkpoint, a summary and a compiled model."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import AutoModel
from zoo.vit import CASES, pixel_values

from optimum_pitome import PiToMeConfig, apply_pitome, pitome_summary, register_algorithm, register_energy
from optimum_pitome.merging import Candidates, match_tokens
from optimum_pitome.methods import ALGORITHMS, ENERGIES


@pytest.fixture
def registered():
    algorithms, energies = dict(ALGORITHMS), dict(ENERGIES)

    @register_algorithm("neighbours", comparisons=lambda num_tokens, num_removed: 0)
    def match_neighbours(features, spec, masks):
        """The first 2k tokens in pairs."""
        candidates = Candidates.read(features, spec, masks)
        if candidates is None:
            return None
        pairs = torch.argsort(candidates.position_key(), dim=1)[:, : 2 * candidates.num_pairs]
        return candidates.plan(pairs[:, 0::2], pairs[:, 1::2], candidates.pair_mask())

    @register_energy("farthest", has_margin=True)
    def farthest_energy(similarity, mergeable, margin, alpha):
        return margin - similarity.amax(dim=-1)

    yield
    for table, before in ((ALGORITHMS, algorithms), (ENERGIES, energies)):
        table.clear()
        table.update(before)


def model():
    case = next(case for case in CASES if case.id == "ViTModel")
    return case.build()


def output_of(model, **settings):
    with torch.no_grad():
        return apply_pitome(model, {"ratio": 0.8, **settings})(**pixel_values(2)).last_hidden_state


@pytest.mark.parametrize("settings", [{"algorithm": "neighbours"}, {"energy": "farthest", "margin": 0.5}], ids=str)
def test_a_method_of_a_user_end_to_end(registered, settings, tmp_path):
    ours = model()
    output = output_of(ours, **settings)
    assert not torch.equal(output, output_of(model()))
    ours.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert {name: loaded.config.pitome[name] for name in settings} == settings
    with torch.no_grad():
        assert torch.equal(loaded(**pixel_values(2)).last_hidden_state, output)
    compiled = torch.compile(loaded, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**pixel_values(2)).last_hidden_state, output, atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("settings", [{"algorithm": "neighbours"}, {"energy": "farthest"}], ids=str)
def test_where_it_is_not_registered(registered, settings, tmp_path):
    apply_pitome(ours := model(), settings).save_pretrained(tmp_path)
    PiToMeConfig(**settings, base_model_name_or_path=str(tmp_path)).save_pretrained(tmp_path / "recipe")
    ((field, name),) = settings.items()
    del (ALGORITHMS if field == "algorithm" else ENERGIES)[name]
    message = f"^{field}='{name}' is not known.*import the module that registers it .optimum_pitome.register_{field}"
    with pytest.raises(ValueError, match=message):
        AutoModel.from_pretrained(tmp_path / "recipe")
    for model_class in (AutoModel, type(ours)):
        with pytest.raises(ValueError, match=f"{message}.*pitome=False loads the dense model"):
            model_class.from_pretrained(tmp_path)
    dense = AutoModel.from_pretrained(tmp_path, pitome=False)
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in dense.state_dict().items())


def test_summaries_count_what_an_entry_declares(registered):
    def merging(**settings):
        (encoder,) = pitome_summary(apply_pitome(model(), settings)).encoders
        return sum(layer.gflops_merge_step for layer in encoder.layers)

    plain = merging(algorithm="tome", metric="keys", importance=0.0)
    assert 0 < merging(algorithm="neighbours", metric="keys", importance=0.0) < plain
    assert merging(energy="farthest") == merging(energy="paper")
    assert "margin" in str(pitome_summary(apply_pitome(model(), {"energy": "farthest"})))


@pytest.mark.parametrize("combine", ["prune", "target", "mlerp", "prune_half"])
def test_what_becomes_of_a_group_is_declared(registered, combine):
    register_algorithm("dropping", combine=lambda index, num_layers: combine if index else "mean")(
        ALGORITHMS["random"].match
    )
    ours = apply_pitome(model(), {"algorithm": "dropping"})
    assert [spec.combine for spec in ours.pitome.specs][:2] == ["mean", combine]
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    with torch.no_grad():
        expected = ours(**pixel_values(2)).last_hidden_state
        torch.testing.assert_close(compiled(**pixel_values(2)).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()


def test_what_no_group_becomes(registered):
    register_algorithm("dropping", combine=lambda index, num_layers: "prnue")(ALGORITHMS["random"].match)
    ours = model()
    with pytest.raises(ValueError, match="combine='prnue' of algorithm='dropping' is not known. Accepted: mean"):
        apply_pitome(ours, {"algorithm": "dropping"})
    assert not hasattr(ours, "pitome")


def test_a_plan_of_another_kind_than_declared(registered):
    def match_for_itself(features, spec, masks):
        return match_tokens(features, replace(spec, algorithm="random", combine="prune"), masks)

    register_algorithm("dropping")(match_for_itself)
    compiled = torch.compile(apply_pitome(model(), {"algorithm": "dropping"}), fullgraph=True, backend="eager")
    with torch.no_grad(), pytest.raises(RuntimeError, match="combine='mean', and returned a PruningPlan.*register"):
        compiled(**pixel_values(2))
    torch._dynamo.reset()
    with pytest.raises(ValueError, match="combine='max' is not known. Accepted: mean"):
        register_algorithm("largest", combine="max")


def test_names(registered):
    for more in ({}, {"exist_ok": True}):
        with pytest.raises(ValueError, match="The algorithm 'pitome' is already registered. It is built in"):
            register_algorithm("pitome", **more)(lambda features, spec, masks: None)
    with pytest.raises(ValueError, match="The energy 'farthest' is already registered. Pass exist_ok=True"):
        register_energy("farthest")(lambda similarity, mergeable, margin, alpha: None)
    with pytest.raises(ValueError, match="algorithm='neighbour' is not known.*Did you mean 'neighbours'"):
        PiToMeConfig(algorithm="neighbour")


def test_a_cell_that_runs_twice(registered):
    before = output_of(model(), algorithm="neighbours", energy="farthest")
    register_algorithm("neighbours", exist_ok=True, reads_energy=True)(ALGORITHMS["pitome"].match)
    register_energy("farthest", exist_ok=True)(ENERGIES["nearest"].score)
    after = output_of(model(), algorithm="neighbours", energy="farthest", importance=0.0)
    # Kernels know the built-in algorithm alone.
    torch.testing.assert_close(after, output_of(model(), importance=0.0), atol=2e-6, rtol=0)
    assert not torch.allclose(after, before, atol=1e-3)
    assert ALGORITHMS["neighbours"].reads_energy and not ENERGIES["farthest"].has_margin


def test_registering_imports_no_torch():
    code = "import sys, optimum_pitome; optimum_pitome.register_algorithm('mine'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
