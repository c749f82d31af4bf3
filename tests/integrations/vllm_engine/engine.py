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

"""A program: starts one engine of vLLM in its own process, and writes what it says to prompts into a file of JSON."""

import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams
from zoo.llava import picture


NEW_TOKENS = 12


def main(specification):
    settings = {"dtype": "float32", "enforce_eager": True, "max_model_len": 512, "max_num_seqs": 8, "seed": 0}
    engine = LLM(specification["folder"], runner=specification["runner"], **{**settings, **specification["engine"]})
    found = []
    for prompts in specification["rounds"]:
        requests = [
            {"prompt": text, **({"multi_modal_data": {"image": [picture(seed) for seed in seeds]}} if seeds else {})}
            for text, seeds in prompts
        ]
        if specification["runner"] == "pooling":
            found.append([output.outputs.embedding for output in engine.embed(requests, use_tqdm=False)])
            continue
        greedy = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
        found.append(
            [
                {
                    "prompt": len(output.prompt_token_ids),
                    "cached": output.num_cached_tokens,
                    "tokens": list(output.outputs[0].token_ids),
                }
                for output in engine.generate(requests, greedy, use_tqdm=False)
            ]
        )
    Path(specification["output"]).write_text(json.dumps(found))


if __name__ == "__main__":  # tensor parallelism starts this file again
    main(json.loads(sys.argv[1]))
