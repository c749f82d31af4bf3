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


import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spectral_clusters import ALGORITHMS, distances
from transformers import BertModel, ViTModel
from zoo.text import bert_config, text_inputs
from zoo.vit import vit_config

from optimum_pitome import PiToMeConfig, apply_pitome
from optimum_pitome.analysis.layer_spectra import all_algorithms, measure_spectra, record_distances
from optimum_pitome.analysis.spectral_report import CORRELATIONS, LayerSpectra, spearman
from optimum_pitome.analysis.spectrum import (
    GRAPHS,
    coarse_graph,
    group_sizes,
    lifted_graph,
    normalised_laplacian,
    spectral_distance,
    spectrum,
    token_graph,
)
from optimum_pitome.apply import layers_watched
from optimum_pitome.methods import ALGORITHMS as TABLE


@st.composite
def partitioned(draw):
    """Features `(B, N, dim)` and groups `(B, N)`, none of them empty."""
    num_groups = draw(st.integers(1, 6))
    num_tokens = draw(st.integers(num_groups, 14))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    groups = [
        torch.cat(
            [torch.arange(num_groups), torch.randint(num_groups, (num_tokens - num_groups,), generator=generator)]
        )[torch.randperm(num_tokens, generator=generator)]
        for _ in range(3)
    ]
    return torch.randn(3, num_tokens, draw(st.integers(2, 8)), generator=generator), torch.stack(groups)


@pytest.mark.parametrize("graph", GRAPHS)
@given(partitioned())
@settings(max_examples=60, deadline=None)
def test_the_lemma(graph, case):
    features, groups = case
    weights, num_tokens = token_graph(features, graph), features.shape[1]
    coarse = spectrum(coarse_graph(weights, groups), group_sizes(groups))
    with_ones = torch.cat([coarse, coarse.new_ones(len(coarse), num_tokens - coarse.shape[1])], dim=1).sort().values
    assert torch.allclose(spectrum(lifted_graph(weights, groups)), with_ones, atol=1e-6)
    # The same from sums of weights, with ordinary degrees.
    sizes = group_sizes(groups)
    sums = coarse_graph(weights, groups) * sizes.unsqueeze(1) * sizes.unsqueeze(2)
    assert torch.allclose(spectrum(sums), coarse, atol=1e-6)


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_lemma_needs_degrees_that_count_tokens(graph):
    features = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    weights = token_graph(features, graph)
    for groups, holds in ([0, 0, 1, 1, 2, 2], True), ([0, 0, 0, 0, 1, 2], False):
        groups = torch.tensor([groups])
        plain, lifted = spectrum(coarse_graph(weights, groups)), spectrum(lifted_graph(weights, groups))
        with_ones = torch.cat([plain, torch.ones(1, 3)], dim=1).sort().values
        assert torch.allclose(with_ones, lifted, atol=1e-6) == holds


def test_graphs_by_hand():
    features = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]])
    weights = token_graph(features)
    assert torch.equal(weights[0], torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]]).double())
    similar = token_graph(features, "similarity")
    assert torch.equal(similar[0], torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]]).double())
    opposite = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]])
    assert float(token_graph(opposite, "similarity")[0, 0, 1]) == 0
    assert float(token_graph(opposite)[0, 0, 1]) == pytest.approx(2)
    groups = torch.tensor([[0, 1, 1]])
    assert torch.equal(coarse_graph(weights, groups)[0], torch.tensor([[0, 0.5], [0.5, 0.5]]).double())
    assert group_sizes(groups).tolist() == [[1, 2]]
    # A path of three nodes: 0, 1, 2.
    assert torch.allclose(spectrum(weights), torch.tensor([[0.0, 1.0, 2.0]]).double())
    # Tokens 0 and 2 are equal: nothing is lost.
    assert float(spectral_distance(weights, torch.tensor([[0, 1, 0]]))) == pytest.approx(0, abs=1e-12)
    assert float(spectral_distance(weights, groups)) > 0.1
    assert torch.equal(normalised_laplacian(torch.zeros(2, 2)), torch.eye(2).double())
    with pytest.raises(ValueError, match="'cos' is not known. Accepted: 'distance', 'similarity'"):
        token_graph(features, "cos")


@given(partitioned())
@settings(max_examples=20, deadline=None)
def test_nothing_merged_is_no_distance(case):
    weights = token_graph(case[0])
    alone = torch.arange(weights.shape[1]).expand(weights.shape[:2])
    assert float(spectral_distance(weights, alone).max()) < 1e-9
    values = spectrum(weights)
    assert values.min() > -1e-9 and values.max() < 2 + 1e-9


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_theorem(graph, seed):
    found = {
        name: [float(distances(name, noise, graph, "one step", 30, seed).mean()) for noise in (0.5, 0.1, 0.01)]
        for name in ALGORITHMS
    }
    paper, tome = found["PiToMe (energy of the paper)"], found["ToMe"]
    assert paper[0] > paper[1] > paper[2] and paper[2] < 0.01
    assert tome[2] > 0.5 * tome[1] and tome[2] > 10 * paper[2]


def test_after_several_steps_the_energy_of_the_paper_stays_away_too():
    """Clusters that have merged are no longer in the order of their sizes, as the theorem assumes."""
    paper, nearest, tome = (
        float(distances(name, 0.01, "distance", "several steps", 30).mean()) for name in list(ALGORITHMS)[:3]
    )
    assert paper > tome > 5 * nearest


def tiny(num_samples=4):
    torch.manual_seed(0)
    model = ViTModel(vit_config(), add_pooling_layer=False)
    return model, [{"pixel_values": torch.randn(num_samples, 3, 32, 32)}]


def test_a_model_layer_by_layer():
    model, batches = tiny()
    model.layers[0].eval()  # frozen
    found = measure_spectra(model, batches, progress=False)
    assert not hasattr(model, "pitome") and model.training and not model.layers[0].training
    assert found.settings == tuple(all_algorithms()) and set(TABLE) < {*found.settings}
    assert found.distances.shape == found.losses.shape == (len(found.settings), 4, 4)
    assert found.distances.min() > 0 and found.losses.min() > 0
    text = str(found)
    assert "W = 1 - cos of the keys" in text and "pitome_halves" in text and "within a layer and a sample" in text
    again = measure_spectra(
        model,
        [{"pixel_values": one[None]} for one in batches[0]["pixel_values"]],
        {"tome": {"algorithm": "tome"}},
        layers=[-1],
        graph="similarity",
        progress=False,
    )
    assert again.layers == (3,) and again.graph == "similarity"
    assert torch.allclose(again.losses[0, 0], found.losses[found.settings.index("tome"), 3], atol=1e-5)


def test_padding_is_no_node():
    torch.manual_seed(0)
    model = BertModel(bert_config(), add_pooling_layer=False).eval()
    inputs = text_inputs(2)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    short = {name: tensor[:1, :-4] for name, tensor in inputs.items()}
    padded = {name: tensor.clone() for name, tensor in inputs.items()}
    padded["attention_mask"][0, -4:] = 0
    apply_pitome(model, PiToMeConfig(ratio=0.7, layers=[1], min_tokens=2))
    found = []
    for batch in (padded, short):
        with layers_watched(model, lambda record: found.append(record_distances(record))), torch.no_grad():
            model(**batch)
    assert len(found) == 2 and float(found[0][0]) == pytest.approx(float(found[1][0]), abs=1e-5)


def test_watching_ends_with_the_block():
    model, batches = tiny()
    apply_pitome(model, 0.8)
    outer, inner = [], []
    with layers_watched(model, outer.append):
        with layers_watched(model, inner.append):
            model(**batches[0])
        model(**batches[0])
    model(**batches[0])
    assert [record.index for record in outer] == [record.index for record in inner] == [0, 1, 2, 3]
    record = outer[2]
    assert record.features.shape[1] == record.plan.assignment.shape[1] == record.tokens.sizes.shape[1]
    groups = record.plan.assignment.gather(1, record.tokens.assignment)  # of the original tokens
    assert groups.shape == (4, 65) and int(groups.max()) == record.plan.kept.shape[1] - 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"ratio": 1.0}, "ratio=1.0: expected one number between 0 and 1"),
        ({"ratio": [0.9]}, "ratio="),
        ({"graph": "none"}, "graph='none' is not known"),
        ({"settings": {}}, "settings is empty"),
        ({"settings": {"a": {"ratio": 0.5}}}, "say ratio, but each layer merges by itself"),
        ({"layers": [7]}, "expected some of the layers 0 to 3"),
        ({"ratio": 0.999}, "Layer 0 merges nothing at ratio=0.999"),
    ],
)
def test_errors(arguments, message):
    model, batches = tiny()
    with pytest.raises(ValueError, match=message):
        measure_spectra(model, batches, progress=False, **arguments)
    assert not hasattr(model, "pitome")


def test_one_sample_is_too_few():
    model, batches = tiny(1)
    with pytest.raises(ValueError, match="One sample is too few"):
        measure_spectra(model, batches, {"tome": {"algorithm": "tome"}}, progress=False)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=20))
@settings(max_examples=50, deadline=None)
def test_spearman_is_scipys(pairs):
    first, second = torch.tensor(pairs, dtype=torch.float64).T
    found = float(spearman(first[None], second[None]))
    if len(set(first.tolist())) == 1 or len(set(second.tolist())) == 1:
        assert found != found
    else:
        assert found == pytest.approx(scipy.stats.spearmanr(first, second).statistic)


def test_correlations_tell_layers_from_samples():
    """Late layers lose less and have larger distances; inside of each layer, the distance ranks the losses."""
    generator = torch.Generator().manual_seed(0)
    inside = torch.rand(3, 5, 20, generator=generator, dtype=torch.float64)
    layer = torch.arange(5)[None, :, None]
    values = inside + 10 * layer, inside - 10 * layer
    spectra = LayerSpectra(("a", "b", "c"), tuple(range(5)), "distance", "keys", *values)
    found = {one.name: one for one in spectra.correlations}
    assert set(found) == set(CORRELATIONS)
    assert found["all"].value < -0.5 and found["within a setting"].high < -0.5
    for name in ("within a layer", "within a layer and a setting", "within a layer and a sample"):
        assert found[name].value == pytest.approx(1) and found[name].low == pytest.approx(1)
