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

"""Tiny models with random weights in folders that vLLM can serve, and what transformers says of them."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)
from zoo.llava import IMAGE_SIZE, llava_config, make_processor, picture, text_config, vipllava_config

import optimum_pitome  # noqa: F401  (from_pretrained takes pitome=)


PITOME = {"ratio": 0.8}
NEW_TOKENS = 12
#: Sizes that vLLM's attention on CPUs takes: heads of 32.
_SIZES = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 64}
_VISION = {**_SIZES, "image_size": IMAGE_SIZE, "patch_size": 4}
_TEXT = {**_SIZES, "vocab_size": 100, "max_position_embeddings": 32, "bos_token_id": 98, "eos_token_id": 99}
#: Prompts, each with the seeds of its pictures: in the middle, several, at the end, none, at the beginning.
PROMPTS = [
    ("w10 w11 <image> w12 w13", [0]),
    ("w10 <image> w11 <image> w12", [1, 2]),
    ("w10 w11 w17 <image>", [3]),
    ("w10 w11 w40 w41", []),
    ("<image> <image> <image> w50", [4, 0, 5]),
]


def save(model, processor, folder):
    """Saves a model of a class, randomly filled so that its answers depend on its inputs."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_llava(folder, config=None, **kwargs):
    config = config or llava_config("clip")
    config.text_config = text_config(hidden_size=64, max_position_embeddings=1024)
    torch.manual_seed(0)
    return save(AutoModelForImageTextToText.from_config(config, **kwargs), make_processor(), folder)


def save_vipllava(folder):
    return save_llava(folder, vipllava_config())


def save_clip(folder):
    text = {**_TEXT, "projection_dim": 64}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=64))
    return save(model, CLIPProcessor(CLIPImageProcessorPil(**_crop()), _tokenizer("<s>", "</s>")), folder)


def save_siglip(folder):
    text = {**_TEXT, "projection_size": 64}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=_VISION))
    return save(model, SiglipProcessor(SiglipImageProcessorPil(size=_crop()["crop_size"]), _tokenizer("</s>")), folder)


def save_bert(folder):
    torch.manual_seed(0)
    model = BertModel(BertConfig(**_SIZES, vocab_size=100, max_position_embeddings=64))
    return save(model, _tokenizer("<s>", "</s>"), folder)


def _crop():
    return {"size": {"shortest_edge": IMAGE_SIZE}, "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}


def _tokenizer(*special):
    """Words `w0` to `w97`, and special tokens at the end of the vocabulary, which stand around every text."""
    words = [f"w{index}" for index in range(98)] + ["<s>", "</s>"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ids = [(token, words.index(token)) for token in special]
    first = f"{special[0]} $A" if len(special) > 1 else "$A"
    backend.post_processor = processors.TemplateProcessing(single=f"{first} {special[-1]}", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=special[0], eos_token=special[-1], pad_token=special[-1]
    )


@torch.no_grad()
def answers(folder, prompts=PROMPTS, **pitome):
    """What `generate` of the rewritten model says: the new tokens of each prompt."""
    model = AutoModelForImageTextToText.from_pretrained(folder, **pitome).eval()
    processor = AutoProcessor.from_pretrained(folder)
    found = []
    for text, seeds in prompts:
        inputs = processor(images=[picture(seed) for seed in seeds] or None, text=text, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1)
        found.append(output[0, inputs["input_ids"].shape[1] :].tolist())
    return found


def prompt_tokens(per_image, prompts=PROMPTS):
    """Tokens of each prompt, where an image takes `per_image`."""
    return [len(text.split()) + len(seeds) * (per_image - 1) for text, seeds in prompts]


@torch.no_grad()
def embeddings(folder, prompts, **pitome):
    """What transformers makes of texts and pictures, with norms of 1."""
    model, processor = AutoModel.from_pretrained(folder, **pitome).eval(), AutoProcessor.from_pretrained(folder)
    found = []
    for text, seeds in prompts:
        if seeds:
            output = model.get_image_features(**processor(images=[picture(seeds[0])], return_tensors="pt"))
        else:
            output = model.get_text_features(**processor(text=[text], return_tensors="pt"))
        found.append(torch.nn.functional.normalize(output.pooler_output, dim=-1)[0])
    return torch.stack(found)


def run_engine(folder, rounds=(PROMPTS,), runner="generate", **engine):
    """Runs an engine of vLLM in a process of its own.

    Returns:
        For each round, what it said to each prompt; and all that it logged.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "output.json"
        specification = {"folder": str(folder), "rounds": rounds, "runner": runner, "engine": engine}
        done = subprocess.run(
            [
                sys.executable,
                Path(__file__).with_name("engine.py"),
                json.dumps({**specification, "output": str(output)}),
            ],
            capture_output=True,
            text=True,
            timeout=600,
            env=environment(),
        )
        log = done.stdout + done.stderr
        assert done.returncode == 0, log[-6000:]
        return json.loads(output.read_text()), log


def environment():
    """For processes of vLLM: tests on their path, one engine in one process, a gigabyte for its cache."""
    settings = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    settings["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # else two workers ask for two NUMA nodes
    return {**os.environ, **settings, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
