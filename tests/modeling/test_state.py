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

"""The tokens between two layers: what is carried along, and brought from one layer to another."""

import pytest
import torch

from optimum_pitome.merging import KeepRatio, MergeSpec, match_tokens
from optimum_pitome.modeling.state import Tokens


def layers(algorithm, num_layers=3):
    """The tokens before each layer and behind the last, and the hidden states, merged on the way."""
    hidden_states = torch.randn(2, 30, 4)
    spec = MergeSpec(KeepRatio.from_float(0.7), algorithm=algorithm)
    tokens, states = [Tokens(num_prefix_tokens=1)], [hidden_states]
    for _ in range(num_layers):
        plan = match_tokens(states[-1], spec, tokens[-1].masks())
        states.append(plan.merge(states[-1], tokens[-1].sizes))
        tokens.append(tokens[-1].merged(plan))
    return tokens, states


@pytest.mark.parametrize("algorithm", ["pitome", "tome"])
def test_earlier_hidden_states_brought_to_a_later_layer(algorithm):
    tokens, states = layers(algorithm)
    for start in range(4):
        for end in range(start, 4):
            # The mean of means, weighted by sizes, is what merging itself computed.
            torch.testing.assert_close(tokens[start].merged_into(tokens[end], states[start]), states[end])


def test_pruned_tokens_do_not_add_up():
    tokens, states = layers("random")
    for start in range(3):
        ones = tokens[start].merged_into(tokens[3], torch.ones_like(states[start]))
        torch.testing.assert_close(ones, torch.ones_like(states[3]))


@pytest.mark.parametrize("algorithm", ["pitome", "random"])
def test_unmerge_and_compress_are_inverse(algorithm):
    tokens, states = layers(algorithm)
    for token, state in zip(tokens, states):
        full = token.unmerge(state)
        assert full.shape == states[0].shape
        assert torch.equal(token.compress(full), state)


def test_a_bias_stays_finite_in_half_precision():
    valid = torch.tensor([[True, True, False]])
    sizes = torch.tensor([[5.0, 1.0, 9.0]])
    pattern = torch.tensor([[True, False, True]] * 3)[None, None]
    for pairwise_mask in (None, pattern, torch.zeros(1, 1, 3, 3).masked_fill(~pattern, float("-inf"))):
        bias = Tokens(sizes, valid, pairwise_mask=pairwise_mask).attention_bias(torch.float16, True)
        assert bias.dtype == torch.float16 and bias.isfinite().all()
        assert (bias[..., 2] == torch.finfo(torch.float16).min).all()
        assert bias[0, 0, 0, 0] == torch.tensor(5.0).log().half()
        assert (bias[0, 0, 0, 1] == 0) == (pairwise_mask is None)
