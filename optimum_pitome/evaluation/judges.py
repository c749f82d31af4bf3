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

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.utils import logging

from ..analysis.loss import pooled
from .metrics import normalize_answer, vqa_score


logger = logging.get_logger(__name__)

#: Fewer other samples than so many times the neighbours, and many neighbours are kept by chance.
_FEW = 10


#: A class that is none: of padding, and of tokens without a label.
IGNORED = -100
#: What a model of two towers embeds pictures and texts with.
TOWERS = ("get_image_features", "get_text_features")


class Judge:
    """One kind of evaluation.

    Attributes:
        references (`str`): names what a batch may hold beside the model's inputs, one per sample.
        counts_masks (`bool`): whether a sample is as long as its attention mask says, not as the batch.
        agreement (`str`): what tables call the share of the decisions that are the dense model's.
        metrics (`tuple[str, ...]`): what `scores` may name.
        compared (`tuple[str, ...]`): the metrics that tell settings apart; without any, the agreement does.
        kept_metrics (`tuple[str, ...]`): what `kept` names.
    """

    references = "labels"
    counts_masks = False
    agreement = "same answer as dense"
    metrics: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    kept_metrics: tuple[str, ...] = ()

    def answer(self, inputs: Mapping[str, Any]) -> list:
        """What is timed: the model on one batch. A list that grows from batch to batch; it need not be one entry per
        sample."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it asks the model: it needs `answer`.")

    def decide(self, answers: list, references: list) -> list:
        """From all answers to what is compared: of the dense model first, then at each of the settings. The model has
        the settings at hand. `references` is empty where the batches had none."""
        return answers

    def agree(self, decision: Any, dense: Any) -> float:
        """How far a decision is the dense model's, between 0 and 1."""
        return float(decision == dense)

    def kept(self, decisions: list, dense: list) -> dict[str, list[float]]:
        """How much of the dense model's decisions is kept by further measures than the agreement: of each, a score
        between 0 and 1 for every sample."""
        return {}

    def scores(self, decisions: list, references: list) -> dict[str, list[float]]:
        """Of every metric, a score between 0 and 1 for each sample (or for each query)."""
        return {}


class ClassJudge(Judge):
    """The class with the largest logit: of a sample, or of each of its tokens. The batches may hold `labels`."""

    counts_masks = True
    metrics = compared = ("accuracy",)

    def __init__(self, model: nn.Module):
        self._model = model

    def answer(self, inputs: Mapping[str, Any]) -> list[list[int]]:
        classes = self._model(**inputs).logits.argmax(dim=-1)
        if classes.dim() == 1:
            return classes.unsqueeze(-1).tolist()
        mask = inputs.get("attention_mask")
        # What stands at padding is no answer.
        return (classes if mask is None else classes.masked_fill(mask == 0, IGNORED)).tolist()

    def agree(self, decision: list[int], dense: list[int]) -> float:
        """The share of equal classes, where one is expected."""
        pairs = [(first, second) for first, second in zip(decision, dense) if second != IGNORED]
        return sum(first == second for first, second in pairs) / max(len(pairs), 1)

    def scores(self, decisions: list[list[int]], references: list) -> dict[str, list[float]]:
        labels = [label if isinstance(label, list) else [label] for label in references]
        return {"accuracy": [self.agree(*pair) for pair in zip(decisions, labels)]}


class AnswerJudge(Judge):
    """The text that a model generates greedily about pictures and questions: accuracy of visual question answering.

    The batches are padded on the left, and hold `answers`: the accepted answers of each question, a list of lists.

    Args:
        model (`torch.nn.Module`): a model that generates, such as LLaVA.
        processor: decodes what the model generates.
        max_new_tokens (`int`, *optional*, defaults to 16): longest answer.
    """

    references = "answers"
    metrics = compared = ("vqa_accuracy",)

    def __init__(self, model: nn.Module, processor: Any, max_new_tokens: int = 16):
        if not hasattr(model, "generate"):
            raise ValueError(f"A {type(model).__name__} does not generate: it cannot answer questions.")
        self._model, self._processor = model, processor
        self._settings = {"max_new_tokens": max_new_tokens, "do_sample": False}

    def answer(self, inputs: Mapping[str, Any]) -> list[str]:
        new = self._model.generate(**inputs, **self._settings)[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self._processor.batch_decode(new, skip_special_tokens=True)]

    def agree(self, decision: str, dense: str) -> float:
        return float(normalize_answer(decision) == normalize_answer(dense))

    def scores(self, decisions: list[str], references: list[list[str]]) -> dict[str, list[float]]:
        return {"vqa_accuracy": [vqa_score(*pair) for pair in zip(decisions, references)]}


def check_two_towers(model: nn.Module) -> None:
    """
    Raises:
        ValueError: if `model` has no embeddings of pictures and of texts to compare.
    """
    if not all(hasattr(model, name) for name in TOWERS):
        raise ValueError(
            f"A {type(model).__name__} has no image and text embeddings to compare. Accepted: CLIP, SigLIP and "
            "VisionTextDualEncoderModel checkpoints."
        )


class RetrievalJudge(Judge):
    """The nearest captions of every picture, and the nearest pictures of every caption: recall at 1, 5 and 10.

    The batches hold the inputs for some pictures and all their captions, and `captions`: the texts themselves, a list
    per picture. A text that belongs to several pictures is right for all of them. What agrees is the first found, over
    all queries of both kinds. A recall among more candidates than there are is left out.
    """

    references = "captions"
    cutoffs = (1, 5, 10)
    metrics = (
        *(f"image_to_text_recall@{cutoff}" for cutoff in cutoffs),
        *(f"text_to_image_recall@{cutoff}" for cutoff in cutoffs),
    )
    compared = ("image_to_text_recall@1", "text_to_image_recall@1")

    def __init__(self, model: nn.Module):
        check_two_towers(model)
        self._model = model

    def answer(self, inputs: Mapping[str, Any]) -> list[tuple[torch.Tensor, ...]]:
        output = self._model(**inputs)
        embeds = (output.image_embeds, output.text_embeds)
        return [tuple(nn.functional.normalize(vectors.float(), dim=-1).cpu() for vectors in embeds)]

    def similarity(self, answers: list, captions: dict[str, int]) -> torch.Tensor:
        """`(pictures, captions)`: `captions` are all of them, each once, with the position where each came first."""
        pictures, texts = (torch.cat(parts) for parts in list(zip(*answers))[:2])
        return pictures @ texts[list(captions.values())].T

    def decide(self, answers: list, references: list[list[str]]) -> list[list[int]]:
        """The best candidates of every picture, then of every caption."""
        captions: dict[str, int] = {}
        for position, text in enumerate(text for of_picture in references for text in of_picture):
            captions.setdefault(text, position)
        similarity, most = self.similarity(answers, captions), max(self.cutoffs)
        rankings = [matrix.topk(min(most, matrix.shape[1])).indices.tolist() for matrix in (similarity, similarity.T)]
        return rankings[0] + rankings[1]

    def agree(self, decision: list[int], dense: list[int]) -> float:
        return float(decision[0] == dense[0])

    def scores(self, decisions: list[list[int]], references: list[list[str]]) -> dict[str, list[float]]:
        number: dict[str, int] = {}
        captions_of = [[number.setdefault(text, len(number)) for text in of_picture] for of_picture in references]
        pictures_of: list[list[int]] = [[] for _ in number]
        for picture, captions in enumerate(captions_of):
            for caption in captions:
                pictures_of[caption].append(picture)
        pictures, found = len(references), {}
        for name, ranked, right, candidates in (
            ("image_to_text", decisions[:pictures], captions_of, len(number)),
            ("text_to_image", decisions[pictures:], pictures_of, pictures),
        ):
            for cutoff in self.cutoffs:
                if cutoff == 1 or cutoff < candidates:
                    hits = [not set(good).isdisjoint(row[:cutoff]) for row, good in zip(ranked, right)]
                    found[f"{name}_recall@{cutoff}"] = [float(hit) for hit in hits]
        return found


class Embedding(NamedTuple):
    """A sample's normalised vector, and which other samples are its nearest by the same model, the nearest first."""

    vector: torch.Tensor
    nearest: list[int]


class EmbeddingJudge(Judge):
    """One vector per sample, without labels: how many of each sample's nearest neighbours under the dense model are
    its nearest neighbours under the merged one, too. That is what a search returns.

    Beside it stand what a search returns where the index was made by the dense model and only the query is merged (at
    1, and at `neighbours`), and the cosine of each vector with the dense one after the dense vectors' mean is taken
    from both (0 where it is negative).

    Args:
        model (`torch.nn.Module`): an encoder.
        pool (`Callable`, *optional*):
            from the model's output and inputs to the vectors. Defaults to the mean over the tokens that
            `attention_mask` names, as sentence-transformers does; without a mask, to `pooler_output`, or else to the
            first token.
        neighbours (`int`, *optional*, defaults to 10): how many are compared.
    """

    counts_masks = True
    kept_metrics = ("dense_index_recall@1", "dense_index_recall@10", "centred_cosine")

    def __init__(self, model: nn.Module, pool: Callable[..., torch.Tensor] | None = None, neighbours: int = 10):
        self._model, self._pool, self._neighbours = model, pool or pooled, neighbours
        self.agreement = f"{neighbours} nearest kept"
        self.kept_metrics = (self.kept_metrics[0], f"dense_index_recall@{neighbours}", self.kept_metrics[2])

    def answer(self, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
        vectors = self._pool(self._model(**inputs), inputs).float()
        return list(nn.functional.normalize(vectors, dim=-1).cpu())

    def decide(self, answers: list[torch.Tensor], references: list) -> list[Embedding]:
        if len(answers) < 2:
            raise ValueError("A sample alone has no neighbours: evaluate embeddings on many samples.")
        others = len(answers) - 1
        if others < _FEW * self._neighbours:
            chance = 100 * min(1, self._neighbours / others)
            logger.warning_once(
                f"{self.agreement}: with {others + 1} samples, {chance:.0f} % are kept by chance alone. Evaluate "
                f"{_FEW * self._neighbours + 1} samples or more."
            )
        vectors = torch.stack(answers)
        return list(map(Embedding, answers, self._nearest(vectors, vectors)))

    def _nearest(self, queries: torch.Tensor, index: torch.Tensor) -> list[list[int]]:
        similarity = (queries @ index.T).fill_diagonal_(-torch.inf)
        return similarity.topk(min(self._neighbours, len(index) - 1)).indices.tolist()

    def agree(self, decision: Embedding, dense: Embedding) -> float:
        return len({*decision.nearest} & {*dense.nearest}) / len(dense.nearest)

    def kept(self, decisions: list[Embedding], dense: list[Embedding]) -> dict[str, list[float]]:
        merged, index = (torch.stack([one.vector for one in each]) for each in (decisions, dense))
        found = [one.nearest for one in dense], self._nearest(merged, index)
        centred = (vectors - index.mean(dim=0) for vectors in (merged, index))
        scores = (
            [float(right[0] == got[0]) for right, got in zip(*found)],
            [len({*right} & {*got}) / len(right) for right, got in zip(*found)],
            nn.functional.cosine_similarity(*centred, dim=-1).clamp(0, 1).tolist(),
        )
        return dict(zip(self.kept_metrics, scores))
