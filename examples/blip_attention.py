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
import copy
import time

import torch
from transformers import BlipVisionConfig, BlipVisionModel

from optimum_pitome import apply_pitome
from optimum_pitome.analysis.timing import Timing


@torch.inference_mode()
def compare(path: str | None, batch_size: int, rounds: int) -> tuple[Timing, float]:
    """Runs both in turn on random pictures.

    Args:
        path (`str`, *optional*): of a checkpoint. Without it, random weights: a small ViT, patches of 14 pixels.

    Returns:
        The times of transformers' own model (`dense`) and of the rewritten one, and the largest difference of their
        outputs.
    """
    sizes = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "patch_size": 14}
    model = BlipVisionModel(BlipVisionConfig(**sizes, image_size=224))
    if path is not None:
        model = BlipVisionModel.from_pretrained(path, pitome=False)
    models = [model.eval(), apply_pitome(copy.deepcopy(model).eval(), 1.0)]
    side = models[0].config.image_size
    pictures = torch.randn(batch_size, 3, side, side, generator=torch.Generator().manual_seed(0))
    seconds, outputs = ([], []), [None, None]
    for index in range(rounds + 2):
        for which in (index % 2, 1 - index % 2):  # which of the two goes first changes from round to round
            start = time.perf_counter()
            outputs[which] = models[which](pictures).last_hidden_state
            seconds[which].append(time.perf_counter() - start)
    # The first runs allocate.
    return Timing.of(*(values[2:] for values in seconds)), (outputs[0] - outputs[1]).abs().max().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub id or path (default: random weights)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    timing, difference = compare(arguments.model, arguments.batch_size, arguments.rounds)
    low, high = timing.speedup_low, timing.speedup_high
    print(f"SDPA: {timing.speedup:.2f}x as fast as transformers' own attention (quartiles {low:.2f} to {high:.2f})")
    print(f"Largest difference of the outputs: {difference:.1e}")


if __name__ == "__main__":
    main()
