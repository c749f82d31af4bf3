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

"""What the app shows, without the app: one model run with settings of one request, and what came of it.

Models are kept dense. A request rewrites the one that it names, and it is dense again before the next request has it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import validate_repo_id
from PIL import Image, ImageOps
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from optimum_pitome import apply_pitome, pitome_disabled, pitome_summary, visualize
from optimum_pitome.analysis.report import EncoderSummary
from optimum_pitome.analysis.timing import DenseMergedTimer, Timing
from optimum_pitome.apply import settings_kept
from optimum_pitome.commands.media import largest_part
from optimum_pitome.commands.unlabelled import model_class
from optimum_pitome.evaluation.judges import pooled
from optimum_pitome.modeling.signatures import names
from optimum_pitome.visualization.samples import PictureGroups
from optimum_pitome.visualization.texts import TextGroups


#: Larger models are refused: whoever opens the page chooses what this machine loads.
MAX_PARAMETERS = 1_000_000_000
#: No code from the Hub runs here.
_TRUST = {"trust_remote_code": False}
#: In place of an algorithm: what the package chooses.
DEFAULT = "default"
#: Rounds of timing, neighbours and classes shown, tokens of a text.
ROUNDS, SHOWN, MAX_TOKENS = 5, 5, 512


@dataclass(frozen=True)
class Comparison:
    """The dense model beside the merged one.

    Attributes:
        cosine (`float`, *optional*): between their embeddings; `None` for a classifier.
        dense, merged (`list[tuple[int, float]]`):
            The nearest of the others, or the likeliest classes, in this order: number, and similarity or probability.
        labels (`list[str]`): of classes; of others nothing.
    """

    cosine: float | None
    dense: list[tuple[int, float]]
    merged: list[tuple[int, float]]
    labels: list[str]


@dataclass(frozen=True)
class Shown:
    """What one request gets to see."""

    sample: PictureGroups | TextGroups
    summary: EncoderSummary
    timing: Timing
    comparison: Comparison

    def picture(self, layer: int) -> Image.Image:
        """A picture's groups after one layer, beside the picture itself."""
        return self.sample.picture([layer], side=392)

    def svg(self, layer: int) -> str:
        """A text's groups after one layer."""
        return self.sample.svg([layer])

    def layer_table(self, layer: int) -> str:
        """The numbers of one layer, in Markdown."""
        groups, counted = self.sample.layers[layer], self.summary.layers[layer]
        rows = {
            "tokens": f"{counted.tokens_in} → {groups.num_tokens}",
            "largest group": int(groups.members.max()),
            "protected": int(groups.protected.sum()),
            "GFLOPs, dense": f"{counted.gflops_dense:.3f}",
            "GFLOPs, merged": f"{counted.gflops_merged + counted.gflops_merge_step:.3f}",
        }
        lines = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
        return f"| layer {layer} | |\n|---|---|\n{lines}"

    def whole_table(self) -> str:
        """Tokens and operations of the encoder, and the time of the model, in Markdown."""
        merged = self.summary.gflops_merged + self.summary.gflops_merge_step
        tokens, timing = self.summary.tokens, self.timing
        rows = [
            ("tokens at the end", tokens[0], tokens[-1], tokens[0] / tokens[-1]),
            ("GFLOPs", f"{self.summary.gflops_dense:.2f}", f"{merged:.2f}", self.summary.gflops_dense / merged),
            ("milliseconds", f"{timing.dense_ms:.1f}", f"{timing.merged_ms:.1f}", timing.speedup),
        ]
        lines = "".join(f"| {name} | {one} | {two} | {ratio:.2f} × |\n" for name, one, two, ratio in rows)
        return f"| whole | dense | merged | ratio |\n|---|---|---|---|\n{lines}"


class Engine:
    """Models in memory, the last `keep` that were asked for, and requests to them, one at a time: two at once would
    spoil each other's times.

    Args:
        folders (`dict[str, str]`): name → folder of models that lie here. All other names are ids on the Hub.
        pictures (`Sequence[PIL.Image.Image]`): among which the nearest to a picture are found.
        keep (`int`): models.
    """

    def __init__(self, folders: dict[str, str] | None = None, pictures: Sequence[Image.Image] = (), keep: int = 2):
        self.pictures = list(pictures)
        self._folders, self._keep = dict(folders or {}), keep
        self._lock = threading.Lock()
        self._models: OrderedDict[tuple[str, str], _Model] = OrderedDict()

    def show_picture(self, name: str, picture: Image.Image | None, budget: float, algorithm: str) -> Shown:
        """One picture: its groups, and its neighbours among the pictures of the app, or its classes.

        Args:
            name (`str`): of the model.
            budget (`float`): so many times fewer operations.
            algorithm (`str`): see `PiToMeConfig`; `"default"` leaves the choice to it.

        Raises:
            ValueError: with a message for whoever asked.
        """
        if picture is None:
            raise ValueError("Choose a picture first.")
        with self._lock:
            loaded = self._load(name, "vision")
            inputs = loaded.of_pictures([ImageOps.exif_transpose(picture)])
            if loaded.others is None and not loaded.labels and self.pictures:
                loaded.others = loaded.vectors([loaded.of_pictures([one]) for one in self.pictures])
            return loaded.show(inputs, loaded.others, budget, algorithm)

    def show_text(self, name: str, text: str, others: str, budget: float, algorithm: str) -> Shown:
        """One text: its groups, and the nearest of `others`, one on each line, or its classes. The rest is as for
        pictures."""
        if not text or not text.strip():
            raise ValueError("Write a text first.")
        lines = [line for line in (others or "").splitlines() if line.strip()][:100]
        with self._lock:
            loaded = self._load(name, "text")
            vectors = loaded.vectors([loaded.of_text(line) for line in lines]) if lines and not loaded.labels else None
            return loaded.show(loaded.of_text(text), vectors, budget, algorithm)

    def _load(self, name: str, part: str) -> _Model:
        name = (name or "").strip()
        key = (name, part)
        if key not in self._models:
            loaded = _Model(self._place(name), part)
            while len(self._models) >= self._keep:
                self._models.popitem(last=False)
            self._models[key] = loaded
        self._models.move_to_end(key)
        return self._models[key]

    def _place(self, name: str) -> str:
        """The folder of a model that lies here, or a name on the Hub, and never another folder of this machine."""
        if name in self._folders:
            return self._folders[name]
        validate_repo_id(name)  # raises a ValueError that says what a name looks like
        if Path(name).exists():
            raise ValueError(f"{name} is a folder of this machine: name a model of the Hub.")
        return name


class _Model:
    """A dense model, and what makes inputs for it."""

    def __init__(self, place: str, part: str):
        config = AutoConfig.from_pretrained(place, **_TRUST)
        with torch.device("meta"):
            number = sum(one.numel() for one in AutoModel.from_config(config).parameters())
        if number > MAX_PARAMETERS:
            raise ValueError(f"{place} has {number:,} parameters; this app takes up to {MAX_PARAMETERS:,}.")
        whole = model_class(config).from_pretrained(place, pitome=False).eval()
        with settings_kept(whole):
            self.part, self.model = part, largest_part(part, apply_pitome(whole, 0.9))
        self.processor = (AutoImageProcessor if part == "vision" else AutoTokenizer).from_pretrained(place, **_TRUST)
        classifies = type(self.model).__name__.endswith(("ImageClassification", "SequenceClassification"))
        self.labels = list(self.model.config.id2label.values()) if classifies else []
        self.others: torch.Tensor | None = None

    def of_pictures(self, pictures: list[Image.Image]) -> dict[str, torch.Tensor]:
        found = self.processor([picture.convert("RGB") for picture in pictures], return_tensors="pt")
        return {name: value for name, value in found.items() if name in names(type(self.model).forward)}

    def of_text(self, text: str) -> dict[str, torch.Tensor]:
        length = min(self.processor.model_max_length, MAX_TOKENS)
        return dict(self.processor(text, truncation=True, max_length=length, return_tensors="pt"))

    @torch.no_grad()
    def vectors(self, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Of the dense model, `(N, dim)`, of length 1."""
        return torch.cat([_unit(pooled(self.model(**batch), batch)) for batch in batches])

    @torch.no_grad()
    def show(self, inputs: dict, others: torch.Tensor | None, budget: float, algorithm: str) -> Shown:
        with settings_kept(self.model) as model:
            apply_pitome(model, {"flops_ratio": budget, **({} if algorithm == DEFAULT else {"algorithm": algorithm})})
            sample = visualize(model, inputs, self.processor, part=self.part)[0]
            timer = DenseMergedTimer(model)
            for _ in range(ROUNDS):
                timer.run(lambda: model(**inputs))
            merged = model(**inputs)
            with pitome_disabled(model):
                dense = model(**inputs)
            summary = pitome_summary(model, num_tokens=len(sample.layers[0].groups)).encoders[0]
        return Shown(sample, summary, timer.result(), self._compare(dense, merged, inputs, others))

    def _compare(self, dense: Any, merged: Any, inputs: dict, others: torch.Tensor | None) -> Comparison:
        if self.labels:
            return Comparison(None, *(_first(output.logits[0].softmax(-1)) for output in (dense, merged)), self.labels)
        vectors = [_unit(pooled(output, inputs))[0] for output in (dense, merged)]
        near = [[] if others is None else _first(others @ vector) for vector in vectors]
        return Comparison(float(vectors[0] @ vectors[1]), *near, [])


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(vectors.float(), dim=-1)


def _first(scores: torch.Tensor) -> list[tuple[int, float]]:
    values, places = scores.topk(min(SHOWN, len(scores)))
    return list(zip(places.tolist(), values.tolist()))
