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

"""How long each phase of answering takes, how much memory it needs, and a LLaVA of random weights to time."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import psutil
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from small_llava import CHAT_TEMPLATE
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)


MEGABYTE = 2**20


@dataclass
class PhaseTimes:
    """One call of `generate`.

    Attributes:
        time_to_first_token: milliseconds from the call to the first new token's logits: tower, projector, prefill.
        prefill: milliseconds of the language model on the prompt.
        decode_per_token: milliseconds per further token.
        peak_memory_mb: memory beyond what was in use before, in MiB (of the GPU, or the process's resident set).
    """

    time_to_first_token: float
    prefill: float
    decode_per_token: float
    peak_memory_mb: float

    @classmethod
    def median(cls, runs: list[PhaseTimes]) -> dict[str, float]:
        """Medians; memory is the largest."""
        if not runs:
            return dict.fromkeys((field.name for field in fields(cls)), float("nan"))
        values = {field.name: [getattr(run, field.name) for run in runs] for field in fields(cls)}
        return {name: (max if "memory" in name else statistics.median)(value) for name, value in values.items()}


@torch.inference_mode()
def measure(model, batch, settings: dict) -> tuple[torch.Tensor, PhaseTimes]:
    """Generates, and times what happens in between through hooks on the model and on its language model."""
    device = model.device
    forwards: list[tuple[float, float]] = []
    ends: list[float] = []
    begun: list[float] = []

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    language_model = model.model.language_model
    hooks = [
        language_model.register_forward_pre_hook(lambda *_: begun.append(now())),
        language_model.register_forward_hook(lambda *_: forwards.append((begun[-1], now()))),
        model.register_forward_hook(lambda *_: ends.append(now())),
    ]
    try:
        with peak_memory(device) as peak:
            start = now()
            sequences = model.generate(**batch, **settings)
            end = now()
    finally:
        for hook in hooks:
            hook.remove()
    steps = len(ends) - 1
    decode = (end - ends[0]) / steps if steps else float("nan")
    prefill = forwards[0][1] - forwards[0][0]
    return sequences, PhaseTimes(1e3 * (ends[0] - start), 1e3 * prefill, 1e3 * decode, peak[0] / MEGABYTE)


def return_freed_memory() -> None:
    """Back to the system: what an earlier run freed must not hide what the next one needs (glibc keeps it)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int]]:
    """Bytes that the block needs at most beyond those in use before: a list with one number, set at the end."""
    result = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield result
        result[0] = torch.cuda.max_memory_allocated(device) - before
        return
    process, done = psutil.Process(), threading.Event()
    return_freed_memory()
    before = process.memory_info().rss

    def sample() -> None:
        while not done.wait(0.002):
            result[0] = max(result[0], process.memory_info().rss - before)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield result
    finally:
        done.set()
        sampler.join()


def random_llava(seed: int) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """LLaVA-1.5's prompt of 576 image tokens: a 24-layer CLIP tower at 336 pixels, narrow, and a Llama of two layers,
    1024 wide. Random weights: times mean something, answers do not."""
    torch.manual_seed(seed)
    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "Question:", "Answer:", "What", "is", "this?"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=["<image>"], padding_side="left", **special
    )
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    processor = LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=24,
            num_attention_heads=4,
            image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            hidden_size=1024,
            intermediate_size=2752,
            num_hidden_layers=2,
            num_attention_heads=8,
            vocab_size=1000,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=None,
        ),
        image_token_index=4,
    )
    return LlavaForConditionalGeneration(config), processor


def random_questions(count: int, seed: int) -> Dataset:
    """Noise to look at."""
    rng = np.random.default_rng(seed)
    images = [PILImage.fromarray(rng.integers(0, 255, (336, 336, 3), dtype=np.uint8)) for _ in range(count)]
    columns = {"image": images, "question": ["What is this?"] * count}
    return Dataset.from_dict(columns, Features(image=Image(), question=Value("string")))
