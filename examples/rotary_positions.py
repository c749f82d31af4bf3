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

"""Compares, on models with rotary embeddings, what tokens are compared by and which place a merged token gets.

    python examples/rotary_positions.py vision text --output-dir outputs/rotary

The two models are trained first (`rotary_models.py`), which takes minutes, and kept in the cache of the examples.
Each line of the table is one variant against what the package does, on the same samples: the features that the dense
model gives are what merging should keep. What was computed already is read from the output folder.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rotary_models
import torch
from datasets import Dataset
from example_data import load, model_path
from linear_probe import fit_head
from PIL import Image
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer, set_seed
from transformers.utils import logging

from optimum_pitome import apply_pitome, cut_rotary
from optimum_pitome.analysis.intervals import half_width
from optimum_pitome.analysis.loss import first_and_mean
from optimum_pitome.apply import layers_watched
from optimum_pitome.evaluation.significance import holm, paired_test
from optimum_pitome.modeling.rewrite import rewritten_encoders
from optimum_pitome.modeling.tokens import UNTOUCHED


#: What is compared: settings for the package, and whether keys are compared as attention sees them.
KEYS = {
    "keys before the rotation": ({"metric": "keys"}, False),
    "keys after the rotation": ({"metric": "keys"}, True),
    "hidden states": ({"metric": "hidden_states"}, False),
}
TODAY = "as the package does"
#: What a batch of inputs is called with.
Batch = Mapping[str, torch.Tensor]


class LargestMember:
    """The place of the largest token of each group; among equals that of the survivor. It watches the layers."""

    def __init__(self) -> None:
        self.places: torch.Tensor | None = None

    def watch(self, record: Any) -> None:
        if record.plan is None:
            return
        slots, sizes = record.plan.assignment, record.tokens.sizes
        index = torch.arange(slots.shape[1]).expand_as(slots)
        places = index if sizes is None else self.places
        sizes = torch.ones(slots.shape) if sizes is None else sizes
        # Sizes are whole numbers: a half decides between equals only.
        rank = sizes + torch.zeros_like(sizes).scatter(1, record.plan.kept, 0.5)
        shape = (len(slots), record.plan.num_kept)
        highest = torch.zeros(shape).scatter_reduce(1, slots, rank, "amax")
        chosen = torch.where(rank == highest.gather(1, slots), index, 0)
        self.places = places.gather(1, torch.zeros(shape, dtype=torch.long).scatter_reduce(1, slots, chosen, "amax"))

    def cut(self, embeddings: tuple[torch.Tensor, ...], tokens: Any) -> tuple[torch.Tensor, ...]:
        return cut_rotary(embeddings, dataclasses.replace(tokens, positions=self.places))


def mean_place(angles: Callable[[int], torch.Tensor]) -> Callable:
    """The mean of the places of all members, in two dimensions for a picture.

    Args:
        angles (`Callable`): from the number of rotated tokens to their angles `(number, d)`. They grow with the place,
            so the mean of the angles, none of them reduced to one turn, is the angle of the mean place.
    """

    def cut(embeddings, tokens):
        mean = _of_groups(angles(embeddings[0].shape[-2]), tokens)
        return tuple(_laid_out(turn(mean), values) for turn, values in zip((torch.cos, torch.sin), embeddings))

    return cut


def angle_mean(embeddings: tuple[torch.Tensor, ...], tokens: Any) -> tuple[torch.Tensor, ...]:
    """The mean of the cosines and of the sines of all members, brought back to the length of one."""
    cos, sin = (_of_groups(values, tokens) for values in embeddings)
    length = (cos**2 + sin**2).sqrt().clamp(min=1e-6)
    return tuple(_laid_out(mean / length, values) for mean, values in zip((cos, sin), embeddings))


def random_place(embeddings: tuple[torch.Tensor, ...], tokens: Any) -> tuple[torch.Tensor, ...]:
    """Any place for what has merged, the same in every layer: says how much the measure sees of places at all."""
    length = tokens.rows.shape[1]
    prefix = length - embeddings[0].shape[-2]
    order = torch.randperm(length - prefix, generator=torch.Generator().manual_seed(0)) + prefix
    anywhere = torch.cat([torch.arange(prefix), order])[tokens.positions]
    places = torch.where(tokens.sizes > 1, anywhere, tokens.positions)
    return cut_rotary(embeddings, dataclasses.replace(tokens, positions=places))


def _of_groups(values: torch.Tensor, tokens: Any) -> torch.Tensor:
    """The mean of `values` `(..., number, d)` over the original tokens of each group after the prefix: `(B, n, d)`."""
    values = values.reshape(-1, *values.shape[-2:]).expand(len(tokens.rows), -1, -1)
    prefix = tokens.rows.shape[1] - values.shape[1]
    return UNTOUCHED.merged_into(tokens, functional.pad(values, (0, 0, prefix, 0)))[:, prefix:]


def _laid_out(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return (values if like.dim() == 3 else values.unsqueeze(1)).to(like.dtype)


@contextlib.contextmanager
def merging(
    model: nn.Module, settings: Mapping[str, Any], cut: Callable | None = None, rotated: bool = False
) -> Iterator[nn.Module]:
    """Inside the block, `model` merges with `settings`, a merged token gets the place that `cut` says, and keys are
    compared as they are `rotated`."""
    apply_pitome(model, dict(settings))
    (encoder,) = rewritten_encoders(model)
    rewrite = encoder.pitome
    if cut is not None:
        arguments = {**rewrite.layer_arguments.cuts, "position_embeddings": cut}
        rewrite.layer_arguments = dataclasses.replace(rewrite.layer_arguments, cuts=arguments)
    layers = rewrite.architecture.find_layers(encoder)
    watch = getattr(cut, "__self__", None)
    with layers_watched(model, watch.watch) if watch else contextlib.nullcontext():
        try:
            if rotated:
                for layer in layers:
                    layer.compared_keys = _as_they_are
            yield model
        finally:
            for layer in layers:
                vars(layer).pop("compared_keys", None)


def _as_they_are(keys: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    return keys


@dataclass
class Subject:
    """One model and what it is compared on.

    Attributes:
        model (`nn.Module`): with rotary embeddings, in `eval()` mode.
        rotary (`nn.Module`): its part that makes them.
        angles (`Callable`): see [`mean_place`].
        batches (`Sequence[Batch]`): inputs, one half to choose on and one to report, a sample to each in turn.
        today (`str`): of [`KEYS`], what the package compares by.
        pooled (`int`): which of the first and the mean token is the sample's embedding.
        head (`Callable`, *optional*): from embeddings `(n, dim)` to classes.
        classified (`np.ndarray`, *optional*): which samples have a class, bool.
    """

    model: nn.Module
    rotary: nn.Module
    angles: Callable[[int], torch.Tensor]
    batches: Sequence[Batch]
    today: str
    pooled: int
    head: Callable[[np.ndarray], np.ndarray] | None = None
    classified: np.ndarray | None = None

    @torch.no_grad()
    @torch.autocast("cpu", torch.bfloat16)
    def embed(self, batches: Sequence[Batch] | None = None) -> torch.Tensor:
        """Embeddings `(n, dim)` float32, computed in bfloat16, dense ones like merged ones."""
        batches = self.batches if batches is None else batches
        return torch.cat([first_and_mean(self.model(**batch), batch)[self.pooled] for batch in batches])

    def variants(self) -> dict[str, dict[str, Any]]:
        """Keyword arguments of [`merging`] under the names of the variants; the first is what the package does."""
        settings = KEYS[self.today][0]
        found = {TODAY: {"settings": settings}}
        for name, (others, rotated) in KEYS.items():
            if name != self.today:
                found[name] = {"settings": others, "rotated": rotated}
        places = {
            "mean place": mean_place(self.angles),
            "mean of the angles": angle_mean,
            "place of the largest": LargestMember().cut,
            "a random place": random_place,
        }
        return {**found, **{name: {"settings": settings, "cut": cut} for name, cut in places.items()}}


def measure(subject: Subject, budgets: Sequence[float], path: Path) -> dict[str, Any]:
    """Distances and classes of every sample, for every budget and variant, in the file `path` as soon as they are
    known.

    Returns:
        `dense` and, as they are without the rotation, `no rotation`, then `<budget> <variant>`: each with `loss`, `1 -
        cosine` to the dense embedding with the dense mean taken out, and `class`.
    """
    found = json.loads(path.read_text()) if path.exists() else {}
    apply_pitome(subject.model, 1.0)
    dense = subject.embed()

    def note(name: str, embed: Callable[[], torch.Tensor]) -> None:
        if name in found:
            return
        embeddings, centre = embed(), dense.mean(dim=0)
        loss = (1 - functional.cosine_similarity(embeddings - centre, dense - centre, dim=-1)).clamp(min=0)
        classes = [] if subject.head is None else subject.head(embeddings.numpy()).tolist()
        found[name] = {"loss": loss.tolist(), "class": classes}
        path.write_text(json.dumps(found))

    note("dense", lambda: dense)
    hook = subject.rotary.register_forward_hook(
        lambda module, inputs, output: (torch.ones_like(output[0]), torch.zeros_like(output[1]))
    )
    note("no rotation", subject.embed)
    hook.remove()
    runs = [(budget, name, options) for budget in budgets for name, options in subject.variants().items()]
    for budget, name, options in tqdm(runs, "variants"):
        settings = {**options["settings"], "flops_ratio": budget}
        with merging(subject.model, **{**options, "settings": settings}):
            note(f"{budget} {name}", subject.embed)
    return found


def table(found: Mapping[str, Any], budgets: Sequence[float], classified: np.ndarray | None) -> str:
    """What was measured, as Markdown: the loss of what the package does, and how much more every variant loses, with
    an interval of 95 % on both halves, and on the second one the p-value, corrected for all lines of the table."""
    lines, p_values = [], []
    for budget in budgets:
        today = found[f"{budget} {TODAY}"]
        names = [name.partition(" ")[2] for name in found if name.startswith(f"{budget} ")]
        for name in names:
            losses, base = (np.array(entry["loss"]) for entry in (found[f"{budget} {name}"], today))
            halves = [_difference(losses[start::2] - base[start::2]) for start in (0, 1)]
            same = np.array(found[f"{budget} {name}"]["class"]) == np.array(found["dense"]["class"])
            agreement = f"{100 * same[classified].mean():.1f} %" if same.size else "–"
            lines.append([f"{budget:g} ×", name, f"{losses.mean():.4f}", *halves, agreement])
            if name != TODAY:
                p_values.append(paired_test(base[1::2].tolist(), losses[1::2].tolist(), len(names) * len(budgets))[0])
    corrected = iter(holm(p_values))
    head = ["fewer operations", "variant", "loss", "more, first half", "more, second half", "p", "same class"]
    rows = [head, ["---"] * len(head)]
    for *line, agreement in lines:
        compared = [*line, f"{next(corrected):.3f}"] if line[1] != TODAY else [*line[:3], "", "", ""]
        rows.append([*compared, agreement])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _difference(differences: np.ndarray) -> str:
    half = half_width(torch.from_numpy(differences)).item()
    return f"{differences.mean():+.4f} ± {half:.4f}"


def vision(num_samples: int, batch_size: int) -> Subject:
    """The DINOv3 and pictures that it was not taught on: drawings, Fashion-MNIST and crops of other photos."""
    model = _trained("rotary-dinov3", rotary_models.dinov3)
    drawings, each = load("stamps")[0], num_samples // 5
    odd = drawings.select(range(1, len(drawings), 2)).shuffle(0).select(range(2 * each))
    clothes = load("fashion_mnist")[0].select(range(2 * each))
    photos = rotary_models.photos(lambda number: number >= rotary_models.NUM_PHOTOS).shuffle(0)
    offset = len(drawings.features["label"].names)
    pictures = [*odd["image"], *clothes["image"], *photos.select(range(each))["image"]]
    order = np.random.default_rng(0).permutation(len(pictures))
    even = drawings.select(range(0, len(drawings), 2)).shuffle(0).select(range(200))
    more = load("fashion_mnist", "train")[0].select(range(1000, 1200))
    subject = Subject(
        model,
        model.rope_embeddings,
        functools.partial(angles_of_patches, model),
        _picture_batches([pictures[index] for index in order], batch_size),
        "keys before the rotation",
        0,
    )
    labels = [*even["label"], *(offset + label for label in more["label"])]
    taught = subject.embed(_picture_batches([*even["image"], *more["image"]], batch_size))
    subject.head = fit_head(taught.numpy(), np.array(labels)).predict
    subject.classified = order < 4 * each
    return subject


def text(num_samples: int, batch_size: int) -> Subject:
    """The Jina v3 and texts of 20 Newsgroups of at least 128 tokens, cut at 256."""
    model, tokenizer = _trained("rotary-jina", rotary_models.jina), AutoTokenizer.from_pretrained(model_path("minilm"))

    def batches(dataset: Dataset, number: int) -> tuple[list[Batch], np.ndarray]:
        rows, length = [], rotary_models.MAX_LENGTH
        for row in dataset.shuffle(0):
            ids = tokenizer(row["text"], truncation=True, max_length=length)["input_ids"]
            rows += [(ids, row["label"])] if len(ids) >= length // 2 else []
            if len(rows) == number:
                break
        # Neighbours have nearly the same length, in both halves.
        rows = sorted(rows, key=lambda row: len(row[0]))
        padded = [
            tokenizer.pad({"input_ids": [ids for ids, _ in rows[start : start + batch_size]]}, return_tensors="pt")
            for start in range(0, len(rows), batch_size)
        ]
        return [dict(batch) for batch in padded], np.array([label for _, label in rows])

    subject = Subject(
        model,
        model.rotary_emb,
        functools.partial(angles_of_words, model),
        batches(load("newsgroups", "test")[0], num_samples)[0],
        "hidden states",
        1,
    )
    taught, labels = batches(load("newsgroups", "train")[0], 600)
    subject.head = fit_head(subject.embed(taught).numpy(), labels).predict
    subject.classified = np.ones(num_samples, dtype=bool)
    return subject


def angles_of_patches(model: nn.Module, number: int) -> torch.Tensor:
    """The angles of a DINOv3's patches, `(number, d)`, for a square picture."""
    side = round(number**0.5)
    places = (torch.arange(side) + 0.5) / side * 2 - 1
    grid = torch.stack(torch.meshgrid(places, places, indexing="ij"), dim=-1).flatten(0, 1)
    return (2 * torch.pi * grid[:, :, None] * model.rope_embeddings.inv_freq).flatten(1).tile(2)


def angles_of_words(model: nn.Module, number: int) -> torch.Tensor:
    """The angles of a Jina v3's tokens, `(number, d)`."""
    return (torch.arange(number)[:, None] * model.rotary_emb.inv_freq).tile(2)


def _picture_batches(pictures: Sequence[Image.Image], batch_size: int) -> list[Batch]:
    size = (rotary_models.IMAGE_SIZE,) * 2
    whole = [picture.convert("RGB").resize(size, Image.Resampling.BICUBIC) for picture in pictures]
    return [rotary_models.pixels(whole[start : start + batch_size]) for start in range(0, len(whole), batch_size)]


def _trained(name: str, train: Callable[[], nn.Module]) -> nn.Module:
    from real_assets.data import made_once

    folder = made_once(name, lambda folder: train().save_pretrained(folder))
    return AutoModel.from_pretrained(folder, pitome=False).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="+", choices=("vision", "text"))
    parser.add_argument("--flops-ratios", type=float, nargs="+", default=[1.35, 1.8, 2.3])
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--output-dir", type=Path, default=Path(tempfile.gettempdir()) / "rotary_positions")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for name in arguments.subjects:
        set_seed(0)
        subject = {"vision": vision, "text": text}[name](arguments.samples, arguments.batch_size)
        found = measure(subject, arguments.flops_ratios, arguments.output_dir / f"{name}.json")
        lost = np.mean(found["no rotation"]["loss"])
        sys.stdout.write(f"{name}: without the rotation the dense model's loss is {lost:.3f}\n\n")
        sys.stdout.write(table(found, arguments.flops_ratios, subject.classified) + "\n\n")


if __name__ == "__main__":
    main()
