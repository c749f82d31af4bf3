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

"""Flash attention in plain PyTorch, which takes the place of a package: transformers itself prepares what it gets."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from transformers import modeling_flash_attention_utils
from zoo import outputs_of


#: Under this name transformers imports `flash_attn_interface`, whatever is installed.
IMPLEMENTATION = "flash_attention_3"

#: The widest head that the package takes.
WIDEST = 256


def attend(query, key, value, scale, causal, window):
    """`(n, heads, width)` each: one sequence."""
    distance = torch.arange(len(key)) - torch.arange(len(query))[:, None]
    left, right = window
    seen = torch.ones(len(query), len(key), dtype=torch.bool)
    seen = seen if left < 0 else seen & (distance >= -left)
    seen = seen if right < 0 else seen & (distance <= right)
    seen = seen & (distance <= 0) if causal else seen
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = torch.einsum("ihd,jhd->hij", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return torch.einsum("hij,jhd->ihd", scores.masked_fill(~seen, -torch.inf).softmax(dim=-1), value)


class PlainFlash:
    """The functions of the package, and the widths and lengths that they were called with."""

    def __init__(self):
        self.widths, self.lengths, self.padded = [], [], 0

    def note(self, query, key, value, dropout_p):
        assert query.shape[-1] == key.shape[-1] == value.shape[-1] <= WIDEST
        assert key.shape[:-1] == value.shape[:-1] and dropout_p == 0.0
        self.widths.append(query.shape[-1])

    def flash_attn_func(
        self,
        q,
        k,
        v,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        deterministic=False,
    ):
        self.note(q, k, v, dropout_p)
        self.lengths.append(q.shape[1])
        return torch.stack([attend(*sample, softmax_scale, causal, window_size) for sample in zip(q, k, v)])

    def flash_attn_varlen_func(
        self,
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        deterministic=False,
    ):
        self.note(q, k, v, dropout_p)
        lengths, of_keys = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
        assert max(lengths) == max_seqlen_q and max(of_keys) == max_seqlen_k
        self.lengths.append(max(lengths))
        self.padded += 1
        pieces = zip(q.split(lengths), k.split(of_keys), v.split(of_keys))
        return torch.cat([attend(*piece, softmax_scale, causal, window_size) for piece in pieces])


@pytest.fixture
def flash(monkeypatch):
    """`flash_attn_interface`, as if it were installed; a model uses it after [`use`]."""
    functions = PlainFlash()
    module = types.ModuleType("flash_attn_interface")
    module.flash_attn_func = functions.flash_attn_func
    module.flash_attn_varlen_func = functions.flash_attn_varlen_func
    module.flash_attn_with_kvcache = None
    monkeypatch.setitem(sys.modules, "flash_attn_interface", module)
    # What transformers loaded before: some functions of whichever package it was.
    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)
    return functions


def use(model, implementation=IMPLEMENTATION):
    """Sets `implementation` by hand, since transformers looks for the package and a GPU; returns `model`."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) in ("sdpa", IMPLEMENTATION, "flex_attention"):
            config._attn_implementation = implementation
    return model


def real_outputs(model, inputs):
    """The output tensors of a model, by name, without those of padding."""
    with torch.no_grad():
        outputs, mask = outputs_of(model(**inputs)), inputs.get("attention_mask")
    if mask is None:
        return outputs
    return {name: value[mask.bool()] if value.shape[:2] == mask.shape else value for name, value in outputs.items()}
