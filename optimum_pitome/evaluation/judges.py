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

"""What an evaluation asks a model, and how it scores what comes back dense and merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from .metrics import Accuracy, Agreement, Recall, VqaAccuracy, normalize_answer


Scores = dict[str, float]


class Judge(Protocol):
    """One kind of evaluation.

    Attributes:
        references (`str`): names what a batch holds beside the model's inputs, one per sample.
        counts_masks (`bool`): whether a sample is as long as its attention mask says, not as the batch.
    """

    references: str
    counts_masks: bool

    def answer(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        """What is timed: the model on one batch."""

    def add(self, dense: Any, merged: Any, references: Any) -> None:
        """Takes what [`~Judge.answer`] gave dense and merged."""

    def scores(self) -> tuple[Scores, Scores, Scores]:
        """Of the dense model, of the merged one, and their agreement; each metric with `_low` and `_high`."""


class _SampleJudge:
    """Scores sample by sample: one metric for the dense model, the same for the merged one, and their agreement."""

    _metrics: tuple

    def scores(self) -> tuple[Scores, Scores, Scores]:
        return tuple(metric.compute() for metric in self._metrics)


class ClassJudge(_SampleJudge):
    """The class with the largest logit."""

    references, counts_masks = "labels", True

    def __init__(self, model: nn.Module):
        self._model = model
        self._metrics = (Accuracy(), Accuracy(), Agreement())

    def answer(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self._model(**inputs).logits

    def add(self, dense: torch.Tensor, merged: torch.Tensor, references: torch.Tensor) -> None:
        first, second = (logits.argmax(dim=-1).tolist() for logits in (dense, merged))
        of_dense, of_merged, agreement = self._metrics
        of_dense.add_batch(predictions=first, references=references.tolist())
        of_merged.add_batch(predictions=second, references=references.tolist())
        agreement.add_batch(predictions=second, references=first)


class AnswerJudge(_SampleJudge):
    """The text that the model generates greedily."""

    references, counts_masks = "answers", False

    def __init__(self, model: nn.Module, processor: Any, max_new_tokens: int):
        if not hasattr(model, "generate"):
            raise ValueError(f"A {type(model).__name__} does not generate: it cannot answer questions.")
        self._model, self._processor = model, processor
        self._settings = {"max_new_tokens": max_new_tokens, "do_sample": False}
        self._metrics = (VqaAccuracy(), VqaAccuracy(), Agreement())

    def answer(self, inputs: Mapping[str, torch.Tensor]) -> list[str]:
        new = self._model.generate(**inputs, **self._settings)[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self._processor.batch_decode(new, skip_special_tokens=True)]

    def add(self, dense: list[str], merged: list[str], references: Sequence[Sequence[str]]) -> None:
        of_dense, of_merged, agreement = self._metrics
        of_dense.add_batch(predictions=dense, references=references)
        of_merged.add_batch(predictions=merged, references=references)
        same = [normalize_answer(first) == normalize_answer(second) for first, second in zip(dense, merged)]
        agreement.add_batch(predictions=same, references=[True] * len(same))


def check_two_towers(model: nn.Module) -> None:
    """
    Raises:
        ValueError: if `model` has no embeddings of pictures and of texts to compare.
    """
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise ValueError(
            f"A {type(model).__name__} has no image and text embeddings to compare. Accepted: CLIP, SigLIP and "
            "VisionTextDualEncoderModel checkpoints."
        )


class RetrievalJudge:
    """The nearest captions of every picture, and the nearest pictures of every caption.

    What agrees is the first of them, over all queries of both kinds. A recall among more candidates than there are is
    left out.
    """

    references, counts_masks = "captions", False

    def __init__(self, model: nn.Module):
        check_two_towers(model)
        self._model = model
        self._vectors: tuple[list, list] = ([], [])
        self._number: dict[str, int] = {}  # of every caption, where the same text again is the same caption
        self._firsts: list[int] = []  # where each came first
        self._captions_of: list[list[int]] = []
        self._seen = 0

    def answer(self, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        output = self._model(**inputs)
        embeds = (output.image_embeds, output.text_embeds)
        return tuple(nn.functional.normalize(vectors.float(), dim=-1) for vectors in embeds)

    def add(self, dense: Any, merged: Any, references: Sequence[Sequence[str]]) -> None:
        for vectors, kept in zip((dense, merged), self._vectors):
            kept.append([part.cpu() for part in vectors])
        for texts in references:
            for position, text in enumerate(texts, self._seen):
                if text not in self._number:
                    self._number[text] = len(self._number)
                    self._firsts.append(position)
            self._seen += len(texts)
            self._captions_of.append([self._number[text] for text in texts])

    def scores(self) -> tuple[Scores, Scores, Scores]:
        pictures_of: list[list[int]] = [[] for _ in self._firsts]
        for picture, captions in enumerate(self._captions_of):
            for caption in captions:
                pictures_of[caption].append(picture)
        scores, best = [], []
        for kept in self._vectors:
            pictures, captions = (torch.cat(parts) for parts in zip(*kept))
            similarity = pictures @ captions[self._firsts].T
            found, answers = {}, []
            for name, matrix, right in (
                ("image_to_text", similarity, self._captions_of),
                ("text_to_image", similarity.T, pictures_of),
            ):
                ranked = matrix.topk(min(max(Recall.cutoffs), matrix.shape[1]), dim=1).indices
                values = Recall().compute(predictions=ranked.tolist(), references=right)
                for metric, value in values.items():
                    cutoff = int(metric.partition("@")[2].partition("_")[0])
                    if cutoff == 1 or cutoff < matrix.shape[1]:
                        found[f"{name}_{metric}"] = value
                answers += ranked[:, 0].tolist()
            scores.append(found)
            best.append(answers)
        return *scores, Agreement().compute(predictions=best[1], references=best[0])
