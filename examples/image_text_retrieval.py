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

"""Image-text retrieval, dense against merged: recall both ways, operations, measured speed.

Offline, on real pictures and real towers: train the projections of a dual encoder once, then evaluate it.

    python examples/image_text_retrieval.py --train
    python examples/image_text_retrieval.py

Any CLIP, SigLIP or BLIP checkpoint and any pictures with captions, from a hub or from disk; BLIP re-ranks:

    python examples/image_text_retrieval.py --model Salesforce/blip-itm-base-flickr --dataset nlphuji/flickr30k
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from common import add_arguments, read_settings, report
from datasets import Dataset
from example_data import load
from torch.nn.functional import normalize
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    BlipForImageTextRetrieval,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
)
from transformers.utils import logging

from optimum_pitome import evaluate
from optimum_pitome.evaluation.columns import find_columns, group_captions
from optimum_pitome.evaluation.data import Batches, take
from optimum_pitome.evaluation.judges import RetrievalJudge
from optimum_pitome.evaluation.questions import encode_captions, rgb
from optimum_pitome.modeling.marks import take_samples


RIDGE = 1.0
TRAINED = Path("outputs/image_text_retrieval/dual_encoder")


class RerankingJudge(RetrievalJudge):
    """As [`RetrievalJudge`], where a matching head re-ranks the best of the towers. What is timed are the towers.

    Args:
        model: with two towers, and a head that judges pairs.
        processor: of the model.
        top (`int`): so many candidates of every picture and of every caption are re-ranked.
    """

    def __init__(self, model: Any, processor: Any, top: int):
        self._model, self._processor, self._top = model, processor, top

    def answer(self, inputs: Mapping[str, torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
        """The vectors of the pictures and of the captions, and the tokens that the matching head reads."""
        raise NotImplementedError

    def encode(self, captions: list[str]) -> dict[str, torch.Tensor]:
        """What [`score`] reads of captions, padded on the right: tensors `(N, T, ...)`."""
        text = encode_captions(self._model, self._processor, {"captions": [captions]})
        return {name: text[name].to(self._model.device) for name in ("input_ids", "attention_mask")}

    def score(self, states: torch.Tensor, text: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The matching head's score of one picture, by its tokens, for every caption."""
        raise NotImplementedError

    @torch.no_grad()
    def similarity(self, answers: list, captions: dict[str, int]) -> torch.Tensor:
        """Scores in which every re-ranked pair is before every other."""
        similarity, picture = super().similarity(answers, captions), 0
        if not self._top:
            return similarity
        best = torch.zeros_like(similarity, dtype=torch.bool)
        best.scatter_(1, similarity.topk(min(self._top, similarity.shape[1]), dim=1).indices, True)
        best.scatter_(0, similarity.topk(min(self._top, similarity.shape[0]), dim=0).indices, True)
        scores, text = similarity - 1000.0, self.encode(list(captions))
        for *_, batch in answers:
            for row in range(len(batch)):
                # A batch of one picture for all its captions: its keys and values are computed once.
                states = take_samples(batch, slice(row, row + 1))
                for part in best[picture].nonzero().flatten().split(64):
                    longest = int(text["attention_mask"][part].sum(dim=1).max())
                    pairs = {name: values[part, :longest] for name, values in text.items()}
                    scores[picture, part] = similarity[picture, part] + self.score(states, pairs).to(scores)
                picture += 1
        return scores


class BlipJudge(RerankingJudge):
    """For `BlipForImageTextRetrieval`."""

    def answer(self, inputs: Mapping[str, torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
        text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        tokens = self._model.vision_model(pixel_values=inputs["pixel_values"]).last_hidden_state
        states = self._model.text_encoder(**text).last_hidden_state
        pictures, captions = self._model.vision_proj(tokens[:, 0]), self._model.text_proj(states[:, 0])
        return [(normalize(pictures, dim=-1).cpu(), normalize(captions, dim=-1).cpu(), tokens)]

    def score(self, states: torch.Tensor, text: Mapping[str, torch.Tensor]) -> torch.Tensor:
        read = self._model.text_encoder(**text, encoder_hidden_states=states).last_hidden_state
        return self._model.itm_head(read[:, 0])[:, 1]


def load_pictures(name: str, split: str | None = None, caption_column: str | None = None, limit: int | None = None):
    """Pictures (the one column of a data set), and the captions of each."""
    dataset = take(load(name, split)[0], limit)
    columns = find_columns(dataset, "caption", label=caption_column)
    pictures, captions = group_captions(dataset, *columns)
    return pictures.select_columns(columns[:1]), captions


@torch.no_grad()
def train_dual_encoder(pictures: Dataset, captions: list[list[str]], directory: Path, batch_size: int = 16) -> None:
    """Joins DINOv2-small and MiniLM by two projections, from canonical correlations of their dense features, and saves
    the model with its processor."""
    import real_assets

    vision, text = real_assets.dinov2_small(), real_assets.minilm()
    model = VisionTextDualEncoderModel.from_vision_text_pretrained(str(vision), str(text), projection_dim=128).eval()
    image_processor, tokenizer = AutoImageProcessor.from_pretrained(vision), AutoTokenizer.from_pretrained(text)
    (column,), seen = pictures.column_names, []
    for start in tqdm(range(0, len(pictures), batch_size), "dense features", unit="batch"):
        images, of_each = pictures[start : start + batch_size][column], captions[start : start + batch_size]
        texts = tokenizer([text for texts in of_each for text in texts], padding=True, return_tensors="pt")
        features = model.vision_model(**image_processor(rgb(images), return_tensors="pt")).pooler_output
        features = features.repeat_interleave(torch.tensor(list(map(len, of_each))), dim=0)
        seen.append((features, model.text_model(**texts).pooler_output))
    weights = canonical_projections(*(torch.cat(features) for features in zip(*seen)), model.config.projection_dim)
    for projection, weight in zip((model.visual_projection, model.text_projection), weights):
        projection.weight.copy_(weight)
    model.save_pretrained(directory)
    VisionTextDualEncoderProcessor(image_processor, tokenizer).save_pretrained(directory)


def canonical_projections(left: torch.Tensor, right: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights `(size, dim)` that project the features of pictures, `(N, dim)`, and those of their texts to where they
    correlate most."""
    (into_left, left), (into_right, right) = _whiten(left), _whiten(right)
    first, strength, second = torch.linalg.svd(left.T @ right / len(left))
    scale = strength[:size].sqrt()
    return (into_left @ first[:, : len(scale)] * scale).T, (into_right @ second.T[:, : len(scale)] * scale).T


def _whiten(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A linear map to features without correlation, and those features. A few hundred samples would overfit at once:
    hence the ridge. The projections have no bias, so the direction of the mean is taken out."""
    spread = features.std(dim=0).clamp(min=1e-4)
    mean = normalize((features / spread).mean(dim=0), dim=0)
    into = (torch.eye(len(mean)) - torch.outer(mean, mean)) / spread[:, None]
    variances, axes = torch.linalg.eigh((features @ into).T @ (features @ into) / len(features))
    into = into @ axes @ torch.diag((variances + RIDGE).rsqrt()) @ axes.T
    return into, features @ into


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(TRAINED), help="hub id or path (default: what --train made)")
    parser.add_argument("--dataset", default="captioned_stamps", help="captioned_stamps, a hub id, or a folder")
    parser.add_argument("--caption-column", help="column of the captions: a text, or a list of texts per picture")
    parser.add_argument("--train", action="store_true", help="train the dual encoder's projections, and stop")
    parser.add_argument("--rerank", type=int, default=128, help="candidates that BLIP's matching head scores; 0: none")
    add_arguments(parser, [0.95, 0.925, 0.898, 0.875], "outputs/image_text_retrieval")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    if arguments.train:
        train_dual_encoder(*load_pictures("captioned_stamps", "train"), Path(arguments.model))
        print(f"Trained projections are in {arguments.model}.")
        return
    if arguments.model == str(TRAINED) and not TRAINED.exists():
        raise SystemExit("There is no trained dual encoder yet. Make it first: add --train; or pass --model.")
    pictures, captions = load_pictures(
        arguments.dataset, arguments.split, arguments.caption_column, arguments.max_samples
    )
    blip = AutoConfig.from_pretrained(arguments.model).model_type == "blip"
    model = (BlipForImageTextRetrieval if blip else AutoModel).from_pretrained(arguments.model, pitome=False)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    processor = AutoProcessor.from_pretrained(arguments.model)

    def prepare(images):
        return {"pixel_values": processor.image_processor(rgb(images), return_tensors="pt")["pixel_values"]}

    references = {"captions": captions}
    data = Batches(pictures, pictures.column_names, references, arguments.batch_size, prepare)
    data = (encode_captions(model, processor, batch) for batch in data)
    judge = BlipJudge(model, processor, arguments.rerank) if blip else None
    with torch.inference_mode():
        found = evaluate(model, data, judge, ratios=read_settings(arguments))
    number = len({text for texts in captions for text in texts})
    name = f"{Path(arguments.model).name} on {Path(arguments.dataset).name}"
    report(found, f"{name} ({len(pictures)} pictures, {number} captions)", arguments.output_dir)


if __name__ == "__main__":
    main()
