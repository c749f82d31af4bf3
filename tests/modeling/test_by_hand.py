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

"""A whole ViT recomputed by hand at r < 1: the model's own sub-modules, the reference's matching, means and attention.

Nothing of the package runs here but the model under test.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from merging import reference
from modeling.helpers import build, images, run

from optimum_pitome import PiToMeConfig, apply_pitome
from optimum_pitome.modeling.rewrite import rewritten_encoders


#: Double precision is what the model keeps where nothing is asked to be float32: similarities are.
DTYPE = torch.float64


def heads(projection, hidden_states):
    """`(n, dim)` to `(heads, n, head_dim)`."""
    return projection(hidden_states).view(len(hidden_states), 2, -1).transpose(0, 1)


def recompute(model, pixel_values, real, settings):
    """The last hidden state of one sample, each original token with its group's vector; and how close choices were."""
    hidden_states = model.embeddings(pixel_values[None])[0]
    real = np.array(real)
    sizes, groups, closest = np.ones(len(hidden_states)), np.arange(len(hidden_states)), np.inf
    num_layers = len(model.layers)
    for index, layer in enumerate(model.layers):
        normed = layer.layernorm_before(hidden_states)
        query, key, value = (heads(getattr(layer.attention, f"{name}_proj"), normed) for name in "qkv")
        log_sizes = sizes if settings["proportional_attention"] else np.ones_like(sizes)
        attended = [
            reference.proportional_attention(q.numpy(), k.numpy(), v.numpy(), log_sizes, real)
            for q, k, v in zip(query, key, value)
        ]
        attended = torch.tensor(np.concatenate(attended, axis=-1))
        hidden_states = hidden_states + layer.attention.o_proj(attended)
        if settings.get("after") == "layer":
            hidden_states = hidden_states + layer.mlp(layer.layernorm_after(hidden_states))

        features = key.mean(dim=0) if settings["metric"] == "keys" else hidden_states
        margin = 0.9 - 0.9 * index / num_layers
        pairs = zip(query.numpy(), key.numpy())
        attention = np.mean([reference.attention_weights(q, k, log_sizes, real)[0] for q, k in pairs], axis=0)
        merge = reference.match(
            settings["algorithm"],
            features.numpy(),
            "0.8",
            settings["energy"],
            margin,
            settings.get("alpha", 1.0),
            num_prefix=1,
            valid=real.tolist(),
            attention=attention,
            importance=settings.get("importance", 0.0),
        )
        closest = min(closest, merge.decisions.closest)
        weights = {"nothing": np.ones_like(sizes), "attention": attention}.get(settings.get("weighted_by"), sizes)
        # ToFu: the first half of the layers keeps the target, the second takes the longest norm.
        tofu = "target" if index < num_layers // 2 else "mlerp"
        combine = tofu if settings["algorithm"] == "tofu" else "mean"
        means, _ = reference.merged(merge, hidden_states.numpy(), weights, combine, settings.get("keep_norm", 0.0))
        _, totals = reference.merged(merge, hidden_states.numpy(), sizes)
        place = {token: slot for slot, token in enumerate(merge.kept)}
        # -1: what was padding is in no group, and leaves with the first merge.
        groups = np.array([place.get(merge.group_of(group), -1) if group >= 0 else -1 for group in groups])
        hidden_states, sizes, real = torch.tensor(means), totals, np.ones(len(means), dtype=bool)
        if settings.get("after") != "layer":
            hidden_states = hidden_states + layer.mlp(layer.layernorm_after(hidden_states))
    return model.layernorm(hidden_states)[groups], closest


BY_ATTENTION = {
    "algorithm": "pitome",
    "energy": "nearest",
    "metric": "keys",
    "proportional_attention": True,
    "weighted_by": "attention",
}
SETTINGS = [
    {"algorithm": "pitome", "energy": "nearest", "metric": "keys", "proportional_attention": True, "importance": 0.5},
    {"algorithm": "pitome", "energy": "nearest", "metric": "keys", "proportional_attention": True, "importance": 0.0},
    {"algorithm": "tome", "energy": "nearest", "metric": "keys", "proportional_attention": False, "importance": 1.0},
    {"algorithm": "pitome", "energy": "paper", "metric": "keys", "proportional_attention": True},
    {"algorithm": "pitome", "energy": "elu", "metric": "hidden_states", "proportional_attention": False},
    {"algorithm": "pitome_unprotected", "energy": "elu", "metric": "keys", "proportional_attention": True},
    {"algorithm": "pitome_halves", "energy": "gaussian", "metric": "keys", "proportional_attention": False},
    {"algorithm": "tome", "energy": "nearest", "metric": "keys", "proportional_attention": True},
    {"algorithm": "pitome", "energy": "elu", "metric": "hidden_states", "proportional_attention": True, "alpha": 3.0},
    {"algorithm": "tofu", "energy": "nearest", "metric": "keys", "proportional_attention": True},
    {"algorithm": "dct", "energy": "nearest", "metric": "keys", "proportional_attention": True},
    {"algorithm": "diffrate", "energy": "nearest", "metric": "keys", "proportional_attention": True},
    {"algorithm": "diffrate", "energy": "nearest", "metric": "hidden_states", "proportional_attention": False},
    {**BY_ATTENTION, "importance": 0.0},
    {**BY_ATTENTION, "algorithm": "tofu"},
    {**BY_ATTENTION, "algorithm": "diffrate"},
    {**BY_ATTENTION, "importance": 0.5},
    {**BY_ATTENTION, "importance": 0.0, "weighted_by": "nothing"},
    {**BY_ATTENTION, "importance": 0.5, "keep_norm": 0.5},
    {**BY_ATTENTION, "algorithm": "diffrate", "keep_norm": 1.0},
]

#: What no user sets, but presets and families do: the fields of the layers' specs, beside settings from above.
OF_FAMILIES = [
    {**SETTINGS[0], "weighted_by": "nothing"},
    {**SETTINGS[0], "after": "layer"},
    {**SETTINGS[4], "after": "layer", "weighted_by": "nothing"},
]


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_a_whole_model_by_hand(settings, attn_implementation, padded):
    check_by_hand(settings, attn_implementation, padded)


@pytest.mark.parametrize("settings", OF_FAMILIES, ids=lambda settings: "-".join(map(str, settings.values())))
def test_a_whole_model_with_the_settings_of_a_family_by_hand(settings):
    check_by_hand(settings, "sdpa", padded=True)


def check_by_hand(settings, attn_implementation, padded):
    dense = build("ViTModel", attn_implementation, dtype=DTYPE)
    of_family = {name: value for name, value in settings.items() if name == "after"}
    of_user = {name: value for name, value in settings.items() if name not in of_family}
    model = apply_pitome(build("ViTModel", attn_implementation, dtype=DTYPE), PiToMeConfig(0.8, **of_user))
    rewrite = rewritten_encoders(model)[0].pitome
    rewrite.specs = tuple(replace(spec, **of_family) for spec in rewrite.specs)
    batch = images(3, seed=11, dtype=DTYPE)
    mask = torch.ones(3, 65, dtype=torch.bool)
    if padded:
        mask[1, -20:] = False
        mask[2, -7:] = False
    output = run(model, batch, attention_mask=mask if padded else None)["last_hidden_state"]
    for sample in range(3):
        with torch.no_grad():
            expected, closest = recompute(dense, batch[sample], mask[sample].tolist(), settings)
        # Seeded, so this is a fact about the example, not a condition: no choice hangs on a rounding error.
        assert closest > 5e-7
        torch.testing.assert_close(output[sample][mask[sample]], expected[mask[sample]], atol=2e-5, rtol=2e-5)
