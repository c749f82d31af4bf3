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

"""Rotary embeddings and other arguments with an entry for each token, in every layer after a merge."""

import itertools
from dataclasses import replace

import pytest
import torch
from modeling.helpers import CASES, build
from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb, rotate_half
from zoo.vit import pixel_values

from optimum_pitome import apply_pitome
from optimum_pitome.apply import layers_watched
from optimum_pitome.merging import TokenMasks, match_tokens
from optimum_pitome.modeling.rewrite import rewritten_encoders
from optimum_pitome.modeling.token_arguments import LayerArguments, cut_positions, cut_rotary, turn_back
from optimum_pitome.modeling.tokens import Tokens


PREFIX = 3  # CLS and two registers


def by_hand(model, pixels):
    """One picture through DINOv3, each token rotated by the angles of its own place: `(N, dim)`."""
    encoder = rewritten_encoders(model)[0]
    hidden, (cos, sin) = model.embeddings(pixels)[0], model.rope_embeddings(pixels)
    places, groups = list(range(len(hidden))), [[place] for place in range(len(hidden))]
    for layer, spec in zip(encoder.layer, encoder.pitome.specs):
        attention, normed = layer.attention, layer.norm1(hidden)
        heads = (attention.num_heads, attention.head_dim)
        query, key, value = (
            projection(normed).unflatten(-1, heads)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        compared = key.mean(dim=1)[None].clone()  # before the rotation
        for rotated in (query, key):
            for token, place in enumerate(places):
                if place >= PREFIX:
                    row = place - PREFIX
                    rotated[token] = rotated[token] * cos[row] + rotate_half(rotated[token]) * sin[row]
        sizes = torch.tensor([float(len(group)) for group in groups])
        scores = torch.einsum("qhd,khd->hqk", query, key) * attention.scaling + sizes.log()
        weights = scores.softmax(dim=-1)
        attended = attention.o_proj(torch.einsum("hqk,khd->qhd", weights, value).flatten(1))
        hidden = hidden + layer.layer_scale1(attended)
        masks = TokenMasks(PREFIX, attention=weights[:, 0].mean(dim=0)[None])
        plan = match_tokens(compared, spec, masks)
        if plan is not None:
            slots = [
                [i for i, slot in enumerate(plan.assignment[0].tolist()) if slot == j]
                for j in range(plan.kept.shape[1])
            ]
            hidden = torch.stack([(hidden[slot] * sizes[slot, None]).sum(0) / sizes[slot].sum() for slot in slots])
            groups = [sum((groups[i] for i in slot), []) for slot in slots]
            places = [places[i] for i in plan.kept[0].tolist()]
        hidden = hidden + layer.layer_scale2(layer.mlp(layer.norm2(hidden)))
    full = hidden.new_empty((sum(map(len, groups)), hidden.shape[1]))
    for vector, group in zip(hidden, groups):
        full[group] = vector
    return model.norm(full)


@pytest.mark.parametrize(
    "layers", [list(c) for n in range(1, 5) for c in itertools.combinations(range(4), n)], ids=str
)
def test_merged_patches_are_rotated_by_their_own_angles(layers):
    model = apply_pitome(build("DINOv3ViTModel", "eager"), {"ratio": 0.7, "layers": layers})
    pixels = pixel_values(2)["pixel_values"]
    with torch.no_grad():
        output = model(pixels).last_hidden_state
        for picture in range(2):
            expected = by_hand(model, pixels[picture : picture + 1])
            torch.testing.assert_close(output[picture], expected, atol=2e-5, rtol=1e-4)


def test_a_forgotten_argument_is_an_error():
    model = apply_pitome(build("DINOv3ViTModel"), 0.8)
    encoder = rewritten_encoders(model)[0]
    encoder.pitome.layer_arguments = replace(encoder.pitome.layer_arguments, cuts={})
    with torch.no_grad(), pytest.raises(RuntimeError, match="tensor argument 'position_embeddings'.*token_arguments="):
        model(**pixel_values(2))
    # In the first layer alone nothing has merged before.
    apply_pitome(model, {"ratio": 0.8, "layers": [3]})
    encoder.pitome.layer_arguments = replace(encoder.pitome.layer_arguments, cuts={})
    with torch.no_grad():
        model(**pixel_values(2))


def test_what_has_no_entries_per_token_passes():
    tokens = Tokens(sizes=torch.ones(1, 2))
    arguments = LayerArguments(
        "Layer", ("first", "second"), {"first", "second", "other"}, {"first": None, "scale": None}
    )
    value = torch.ones(3)
    assert arguments.cut((value, 5), {"scale": value, "flag": True, "num_items_in_batch": value}, tokens) == (
        (value, 5),
        {"scale": value, "flag": True, "num_items_in_batch": value},
    )
    for args, kwargs in (((None, value), {}), ((), {"other": (value, value)})):
        with pytest.raises(RuntimeError, match="Layer got the tensor argument '(second|other)'"):
            arguments.cut(args, kwargs, tokens)


@pytest.mark.parametrize("shape", [(7, 4), (1, 7, 4), (2, 7, 4), (1, 1, 7, 4), (2, 1, 7, 4)])
@pytest.mark.parametrize("prefix", [0, 2])
def test_rotary_embeddings_of_all_layouts(shape, prefix):
    positions = torch.tensor([[0, 1, 4, 6], [0, 1, 2, 8]]) if prefix else torch.tensor([[0, 3, 6], [1, 2, 4]])
    tokens = Tokens(rows=torch.zeros(2, 7 + prefix, dtype=torch.long), positions=positions)
    cos = torch.randn(shape)
    (cut,) = cut_rotary((cos,), tokens)
    rows = cos.reshape(-1, 7, 4).expand(2, -1, -1)
    expected = torch.stack([rows[b, positions[b, prefix:] - prefix] for b in range(2)])
    assert torch.equal(cut, expected if len(shape) == 3 else expected.unsqueeze(1))


@pytest.mark.parametrize("shape", [(7, 8), (1, 7, 8), (2, 7, 8), (2, 1, 7, 8)])
@pytest.mark.parametrize("prefix", [0, 2])
def test_keys_are_turned_back(shape, prefix):
    keys = torch.randn(2, 7 + prefix, 8)
    angles = torch.randn(*shape[:-1], 4).tile(2)
    turn = [values.reshape(-1, 1, 7, 8) for values in (angles.cos(), angles.sin())]
    rotated, _ = apply_rotary_pos_emb(keys[:, None, prefix:], keys[:, None, prefix:], *turn)
    rotated = torch.cat([keys[:, :prefix], rotated.squeeze(1)], dim=1)
    assert not torch.allclose(rotated, keys)
    torch.testing.assert_close(turn_back(rotated, (angles.cos(), angles.sin())), keys)


ROTARY = (
    "DINOv3ViTModel",
    "ModernBertModel",
    "GteModel",
    "NomicBertModel",
    "JinaEmbeddingsV3Model",
    "EuroBertModel",
    "Qwen2VisionTransformerPretrainedModel",
    "Qwen2_5_VisionTransformerPretrainedModel",
    "Qwen3VLVisionModel",
)


@pytest.mark.parametrize("name", ROTARY)
@torch.no_grad()
def test_rotary_families_compare_keys_before_the_rotation(name):
    """In the first layer, and in one after a merge: what is compared is what the layer's own projection gives."""
    if name not in CASES:
        pytest.skip(f"{name} needs a newer transformers")
    case = CASES[name]
    model = apply_pitome(case.build(), {"ratio": 0.7, "metric": "keys", "layers": [0, 1]})
    projected, compared = [], []
    for module_name, module in model.named_modules():
        if module_name.endswith("k_proj"):
            module.register_forward_hook(lambda module, inputs, output: projected.append(output))
        elif module_name.endswith(("Wqkv", ".qkv")):
            module.register_forward_hook(lambda module, inputs, output: projected.append(output.chunk(3, dim=-1)[1]))
    with layers_watched(model, compared.append):
        model(**case.inputs(2))
    assert len(compared) >= 2 and compared[1].tokens.rows is not None
    for record, keys in zip(compared[:2], projected):
        expected = keys.unflatten(-1, (-1, record.features.shape[-1])).mean(dim=2)
        torch.testing.assert_close(record.features, expected)


class Cutting(torch.nn.Module):
    def forward(self, values, positions):
        tokens = Tokens(positions=positions, rows=positions.new_zeros(positions.shape[0], values.shape[1]))
        return cut_rotary((values,), tokens)[0], cut_positions(torch.arange(values.shape[1])[None], tokens)


def test_exported_models_take_batches_of_any_size():
    """What is cut has one row for all samples, and the tokens have one for each."""
    values, positions = torch.randn(1, 6, 4), torch.tensor([[0, 2, 5], [1, 3, 4]])
    batch = {"values": None, "positions": {0: torch.export.Dim.DYNAMIC}}
    inputs = {"values": values, "positions": positions}
    program = torch.export.export(Cutting(), (), inputs, dynamic_shapes=batch, strict=False).module()
    more = torch.cat([positions, positions.flip(0)])
    cut, places = program(values=values, positions=more)
    assert torch.equal(cut, values[0][more]) and torch.equal(places, more)
