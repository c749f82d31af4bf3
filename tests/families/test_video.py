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

"""V-JEPA 2: what its tokens are compared by."""

import torch
from zoo import all_cases

from optimum_pitome import apply_pitome
from optimum_pitome.modeling.rewrite import rewritten_encoders


def test_vjepa2_compares_keys_from_before_its_embeddings():
    """Tokens that say the same are equal, wherever they are; after the embeddings they are not."""
    case = next(case for case in all_cases() if case.id == "VJEPA2Model")
    model = apply_pitome(case.build(), 0.8)
    encoder, records = rewritten_encoders(model)[0], []
    encoder.pitome.watch = records.append
    encoder.embeddings.register_forward_hook(
        lambda module, args, output: output[:, torch.arange(output.shape[1]) % 4].contiguous()
    )
    with torch.no_grad():
        model(**case.inputs(2), skip_predictor=True)
    attention, features = encoder.layer[0].attention, records[0].features
    assert torch.allclose(features[:, 0], features[:, 4], atol=1e-6)
    places = attention.get_position_ids(torch.zeros(1, features.shape[1], 1))
    heads = features.unsqueeze(1)
    turned = attention.apply_rotary_embeddings(heads, places)
    assert not torch.allclose(turned[:, :, 0], turned[:, :, 4], atol=1e-2)
