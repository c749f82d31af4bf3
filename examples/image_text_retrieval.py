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

"""Image-text retrieval, dense against merged: recall both ways, Rsum, operations, measured speed.

Offline, on real pictures and real towers: train the projections of a dual encoder once, then evaluate it.

    python examples/image_text_retrieval.py --train
    python examples/image_text_retrieval.py

Any CLIP, SigLIP or BLIP checkpoint and any pictures with captions, from a hub or from disk; BLIP re-ranks:

    python examples/image_text_retrieval.py --model Salesforce/blip-itm-base-flickr --dataset nlphuji/flickr30k
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from retrieval_data import CaptionedPictures, load_captioned_pictures
from retrieval_models import load_retrieval_model
from tqdm import tqdm
from transformers.utils import logging

from optimum_pitome import PiToMeConfig, apply_pitome, pitome_summary
from optimum_pitome.analysis.timing import DenseMergedTimer
from optimum_pitome.evaluation.metrics import Recall
from optimum_pitome.modeling.rewrite import rewritten_encoders


TRAINED = Path("outputs/image_text_retrieval/dual_encoder")


@dataclass
class Result:
    """One line of the table. Recalls in percent, Rsum their sum; GFLOPs and tokens of the vision tower per picture."""

    ratio: float
    gflops: float
    tokens: int
    captions_for_pictures: tuple[float, float, float]
    pictures_for_captions: tuple[float, float, float]
    rsum: float
    seconds: float
    rerank_seconds: float
    speed_up: float


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(TRAINED), help="hub id or path (default: what --train made)")
    parser.add_argument("--dataset", default="stamps", help="stamps, a hub id, or a folder")
    parser.add_argument("--split", help="split to evaluate (default: test, validation, or what there is)")
    parser.add_argument("--caption-column", help="column of the captions: a text, or a list of texts per picture")
    parser.add_argument("--max-pictures", type=int, help="evaluate on so many pictures only")
    parser.add_argument("--train", action="store_true", help="train the dual encoder's projections, and stop")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.95, 0.925, 0.898, 0.875])
    parser.add_argument("--pitome", default="{}", help="further settings as JSON, or a JSON file")
    parser.add_argument("--rerank", type=int, default=128, help="candidates that BLIP's matching head scores; 0: none")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--timed-batches", type=int, default=8, help="batches that run dense and merged in turn")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/image_text_retrieval"))
    arguments = parser.parse_args()
    text = arguments.pitome if arguments.pitome.lstrip().startswith("{") else Path(arguments.pitome).read_text()
    settings = json.loads(text)
    arguments.configs = {
        ratio: PiToMeConfig.from_value({**settings, "ratio": ratio}) for ratio in arguments.ratios if ratio != 1.0
    }
    return arguments


def recalls(similarity: torch.Tensor, right: list[list[int]]) -> tuple[float, float, float]:
    """Recall at 1, 5 and 10 in percent, from the scores of every query (rows) for every candidate."""
    ranked = similarity.topk(min(max(Recall.cutoffs), similarity.shape[1]), dim=1).indices
    values = Recall().compute(predictions=ranked.tolist(), references=right)
    return tuple(100 * values[f"recall@{cutoff}"] for cutoff in Recall.cutoffs)


@torch.inference_mode()
def evaluate(scorer, data: CaptionedPictures, batches: list[torch.Tensor], captions: torch.Tensor, rerank: int):
    """Scores every pair with the model as it is.

    Returns:
        Recalls of captions for pictures and of pictures for captions; seconds for the pictures and for re-ranking.
    """
    start = time.perf_counter()
    encoded = [scorer.encode_pictures(batch) for batch in tqdm(batches, "pictures", unit="batch", leave=False)]
    seconds, rerank_seconds = time.perf_counter() - start, 0.0
    similarity = torch.cat([vectors for vectors, _ in encoded]) @ captions.T
    if rerank and scorer.reranks:
        tokens = [tokens for _, tokens in encoded]
        similarity, rerank_seconds = scorer.rerank(similarity, tokens, data.captions, rerank)
    found = recalls(similarity, data.captions_of), recalls(similarity.T, data.pictures_of)
    return *found, seconds, rerank_seconds


@torch.inference_mode()
def vision_summary(scorer, batch: torch.Tensor):
    """Tokens and operations of the vision tower for pictures of this size (the configured size may be another)."""
    encoders = rewritten_encoders(scorer.model)
    vision = next(index for index, encoder in enumerate(encoders) if encoder.pitome.architecture.part == "vision")
    lengths: list[int] = []
    layer = encoders[vision].pitome.architecture.find_layers(encoders[vision])[0]
    hook = layer.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    scorer.encode_pictures(batch[:1])
    hook.remove()
    return pitome_summary(scorer.model, num_tokens=lengths[0]).encoders[vision]


def run(scorer, data: CaptionedPictures, configs: dict[float, PiToMeConfig], arguments) -> list[Result]:
    """The dense model, then every ratio."""
    rows, size = data.pictures, arguments.batch_size
    # Decoded once: reading pictures is no part of what is timed.
    batches = [scorer.pixel_values(rows[i : i + size]["image"]) for i in range(0, len(rows), size)]
    with torch.inference_mode():
        parts = [scorer.encode_captions(data.captions[i : i + size]) for i in range(0, len(data.captions), size)]
    results = []
    for ratio, config in {1.0: PiToMeConfig(ratio=1.0), **configs}.items():
        apply_pitome(scorer.model, config)
        summary = vision_summary(scorer, batches[0])
        timer = DenseMergedTimer(scorer.model)
        for batch in batches[: arguments.timed_batches] if ratio != 1.0 else ():
            timer.run(lambda: scorer.encode_pictures(batch))
        speed_up = timer.result().speedup if ratio != 1.0 and arguments.timed_batches else 1.0
        towards_text, towards_image, seconds, rerank_seconds = evaluate(
            scorer, data, batches, torch.cat(parts), arguments.rerank
        )
        results.append(
            Result(
                ratio=ratio,
                gflops=summary.gflops_merged + summary.gflops_merge_step,
                tokens=summary.tokens[-1],
                captions_for_pictures=towards_text,
                pictures_for_captions=towards_image,
                rsum=sum(towards_text) + sum(towards_image),
                seconds=seconds,
                rerank_seconds=rerank_seconds,
                speed_up=speed_up,
            )
        )
    return results


def table(results: list[Result]) -> str:
    row = "{:>6} {:>22} {:>22} {:>15} {:>14} {:>7} {:>9} {:>9}"
    lines = [row.format("ratio", "caption R@1/5/10", "picture R@1/5/10", "Rsum", "GFLOPs", "tokens", "s", "rerank s")]
    for result in results:
        lines.append(
            row.format(
                "dense" if result.ratio == 1.0 else f"{result.ratio:g}",
                " / ".join(f"{value:.1f}" for value in result.captions_for_pictures),
                " / ".join(f"{value:.1f}" for value in result.pictures_for_captions),
                f"{result.rsum:.1f} ({result.rsum / results[0].rsum:.1%})",
                f"{result.gflops:.3g} ({results[0].gflops / result.gflops:.2f}x)",
                result.tokens,
                f"{result.seconds:.1f}",
                f"{result.rerank_seconds:.1f}",
            )
            + ("" if result.ratio == 1.0 else f"  {result.speed_up:.2f}x")
        )
    return "\n".join(lines)


def draw(results: list[Result], title: str, path: Path) -> None:
    """Rsum against operations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    gflops, rsum = [result.gflops for result in results], [result.rsum for result in results]
    axes.plot(gflops, rsum, marker="o", label="PiToMe")
    axes.axhline(rsum[0], linestyle=":", linewidth=1, label="dense")
    axes.axhline(0.98 * rsum[0], linestyle="--", linewidth=1, color="tab:gray", label="98 % of dense")
    for result in results:
        text = "dense" if result.ratio == 1.0 else f"r = {result.ratio:g}"
        axes.annotate(text, (result.gflops, result.rsum), (0, -16), textcoords="offset points", ha="center")
    axes.set(xlabel="GFLOPs per picture (multiply-add = 1), merge step included", ylabel="Rsum", title=title)
    axes.margins(y=0.2)
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    arguments = parse_arguments()
    logging.set_verbosity_error()
    if arguments.train:
        from retrieval_training import train_dual_encoder

        directory = train_dual_encoder(load_captioned_pictures("stamps", "train"), Path(arguments.model))
        print(f"Trained projections are in {directory}.")
        return
    if arguments.model == str(TRAINED) and not TRAINED.exists():
        raise SystemExit("There is no trained dual encoder yet. Make it first: add --train; or pass --model.")
    data = load_captioned_pictures(
        arguments.dataset, arguments.split, arguments.caption_column, arguments.max_pictures
    )
    scorer = load_retrieval_model(arguments.model)
    results = run(scorer, data, arguments.configs, arguments)
    title = (
        f"{Path(arguments.model).name} on {Path(arguments.dataset).name} ({len(data.pictures)} pictures, "
        f"{len(data.captions)} captions)"
    )
    draw(results, title, arguments.output_dir / "rsum_against_flops.png")
    report = {"title": title, "results": [asdict(result) for result in results]}
    (arguments.output_dir / "results.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\n{title}\n{table(results)}")
    print(f"\nThe last column is the measured speed-up of the pictures. Curve: {arguments.output_dir}")


if __name__ == "__main__":
    main()
