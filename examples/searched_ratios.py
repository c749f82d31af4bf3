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

"""What a search of every layer's ratio is worth on inputs that it has not seen: against one ratio for all layers, and
against every fixed profile, at the same number of operations.

    python examples/searched_ratios.py photos --flops-ratios 1.35 1.8 --max-settings 160
    python examples/searched_ratios.py documents --flops-ratios 1.35 1.8 --max-settings 160

It searches on 100 photos and tests on 100 others, and on squares of desktop photos (DINOv2-small as a ViT, its first
token), or searches on training documents of 20 Newsgroups and tests on test documents (MiniLM, the mean token).
The loss of an input is 1 - cosine to what the dense model says, the dense mean taken out of both.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from example_data import load, model_path
from real_assets import data, dinov2_small_as_vit
from real_assets.collected import collected_photos
from scipy import stats
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from optimum_pitome import apply_pitome, pitome_summary, remove_pitome
from optimum_pitome.analysis.loss import pooled
from optimum_pitome.evaluation.data import take
from optimum_pitome.methods import PROFILES
from optimum_pitome.tuning.search import STARTS, search_ratios
from optimum_pitome.tuning.space import SearchSpace


NUM_TOKENS = 256
BATCH_SIZE = 20
Batches = list[Mapping[str, Any]]


def load_photos(numbers: Sequence[int]) -> tuple[torch.nn.Module, Batches, dict[str, Batches], None]:
    """The model, batches to search on and to test on (by what they are), and the length of texts."""
    folder = dinov2_small_as_vit()
    # Without a pooler, which the weights lack: one drawn anew would make every run a search of another model.
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    processor = AutoImageProcessor.from_pretrained(folder)
    seen, others = (take(collected_photos(split), number) for split, number in zip(("train", "test"), numbers))
    seen, *unseen = (
        [processor(part["image"], return_tensors="pt") for part in batches(of)] for of in (seen, others, data.photos())
    )
    return model, seen, dict(zip(("other photos", "squares of desktop photos"), unseen)), None


def load_documents(numbers: Sequence[int]) -> tuple[torch.nn.Module, Batches, dict[str, Batches], int]:
    """The same, of texts."""
    folder = model_path("minilm")
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    options = {"truncation": True, "max_length": NUM_TOKENS, "padding": True, "return_tensors": "pt"}
    parts = [take(load("newsgroups", split)[0], number) for split, number in zip(("train", "test"), numbers)]
    parts = [part.select(np.argsort([len(text) for text in part["text"]])) for part in parts]  # little padding
    seen, unseen = ([tokenizer(part["text"], **options) for part in batches(of)] for of in parts)
    return model, seen, {"test documents": unseen}, NUM_TOKENS


def batches(dataset):
    return dataset.iter(BATCH_SIZE)


@torch.no_grad()
def embed(model: torch.nn.Module, inputs: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    return torch.cat([pooled(model(**batch), batch) for batch in inputs])


def compare(dense: torch.Tensor, merged: torch.Tensor) -> tuple[np.ndarray, float]:
    """The loss of every input, and the share of the ten nearest neighbours that stay."""
    centre = dense.mean(dim=0)
    losses = 1 - torch.nn.functional.cosine_similarity(dense - centre, merged - centre, dim=-1)
    near, still = (_neighbours(vectors) for vectors in (dense, merged))
    return losses.double().numpy(), (near.unsqueeze(2) == still.unsqueeze(1)).any(dim=2).float().mean().item()


def distance_of(centre: torch.Tensor):
    """For the search: the loss of what [`embed`] takes for an embedding."""

    def distance(merged: Any, dense: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
        vectors = (pooled(output, inputs) - centre for output in (merged, dense))
        return 1 - torch.nn.functional.cosine_similarity(*vectors, dim=-1)

    return distance


def _neighbours(vectors: torch.Tensor) -> torch.Tensor:
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    return (vectors @ vectors.T).fill_diagonal_(-2).topk(min(10, len(vectors) - 1), dim=1).indices


def less(losses: np.ndarray, others: np.ndarray) -> str:
    """By how much the mean of `losses` is lower, in percent, with a 95 % interval over the inputs."""

    def share(losses: np.ndarray, others: np.ndarray, axis: int = -1) -> np.ndarray:
        return 100 * (1 - losses.mean(axis=axis) / others.mean(axis=axis))

    found = stats.bootstrap((losses, others), share, paired=True, method="percentile", rng=0).confidence_interval
    return f"{share(losses, others):.1f} % ({found.low:.1f} to {found.high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", choices=("photos", "documents"))
    parser.add_argument("--flops-ratios", type=float, nargs="+", default=[1.35, 1.8])
    parser.add_argument("--max-settings", type=int, default=160)
    parser.add_argument("--numbers", type=int, nargs=2, help="so many inputs to search on and to test on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/searched_ratios"))
    options = parser.parse_args()
    read, usual = (load_photos, (100, 100)) if options.inputs == "photos" else (load_documents, (300, 400))
    model, seen, unseen, length = read(options.numbers or usual)
    model.eval()
    dense = {name: embed(remove_pitome(model), part) for name, part in unseen.items()}
    for target in options.flops_ratios:
        space = SearchSpace(model, target, sequence_length=length, batches=seen)
        settings = {name: space.config(space.profile(removed)) for name, removed in STARTS.items()}
        found = search_ratios(
            remove_pitome(model),
            seen,
            length,
            distance_of(embed(model, seen).mean(dim=0)),
            flops_ratio=target,
            max_settings=options.max_settings,
            seed=options.seed,
            resume_from=options.output_dir / f"{options.inputs}-{target:g}-{options.seed}.jsonl",
            progress=True,
        )
        for means, settings_of_means in space.other_means.items():
            other = space.otherwise(settings_of_means)
            for name, profile in {"one ratio": "uniform", "default profile": "balanced"}.items():
                settings[f"{name}, {means}"] = other.config(other.profile(PROFILES[profile].removed))
        settings["found"] = found.config
        rows = {name: {} for name in unseen}
        for setting, config in settings.items():
            apply_pitome(model, config)
            operations = pitome_summary(model, num_tokens=length).flops_ratio
            for name, part in unseen.items():
                rows[name][setting] = (*compare(dense[name], embed(model, part)), operations)
        lines = [line for name, of in rows.items() for line in table(f"{name}, {target:g} x", of)]
        sys.stdout.write("\n".join([*lines, json.dumps(found.config.to_pitome_dict())]) + "\n\n")
        remove_pitome(model)


def table(title: str, rows: Mapping[str, tuple[np.ndarray, float, float]]) -> list[str]:
    """The lines about one set of inputs that no search has seen."""
    found, *_ = rows["found"]
    lines = [
        f"{name:<68}{losses.mean():.4f}  {kept:.1%} of the neighbours  {operations:.2f} x fewer operations"
        + ("" if name == "found" else f"  found loses {less(found, losses)} less")
        for name, (losses, kept, operations) in rows.items()
    ]
    return [f"{title}, {len(found)} inputs that no search has seen", *lines]


if __name__ == "__main__":
    main()
