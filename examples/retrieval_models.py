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

"""Models that score pictures against captions, behind one interface: for examples/image_text_retrieval.py."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, BlipForImageTextRetrieval

from optimum_pitome.modeling.marks import take_samples


def load_retrieval_model(path: str):
    """A scorer for the checkpoint: [`BlipScorer`] for BLIP, [`DualScorer`] for CLIP, SigLIP and their kin.

    Raises:
        ValueError: if the model has no image and text features to compare.
    """
    if AutoConfig.from_pretrained(path).model_type == "blip":
        return BlipScorer(path)
    model = AutoModel.from_pretrained(path, pitome=False)
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise ValueError(
            f"{path} is a {type(model).__name__}, which has no image and text features to compare. Accepted: CLIP, "
            "SigLIP, VisionTextDualEncoderModel and BlipForImageTextRetrieval checkpoints."
        )
    return DualScorer(model, path)


class DualScorer:
    """Two towers: one vector per picture, one per caption."""

    #: Whether a second, slower head can re-rank the best candidates.
    reranks = False

    def __init__(self, model, path: str):
        self.model = model.eval()
        self.processor = AutoProcessor.from_pretrained(path)
        # SigLIP was trained with, and pools at the end of, captions of one length.
        self.padding = "max_length" if "siglip" in model.config.model_type else True

    def pixel_values(self, pictures: Iterable) -> torch.Tensor:
        return self.processor.image_processor([p.convert("RGB") for p in pictures], return_tensors="pt")[
            "pixel_values"
        ]

    def tokens(self, captions: list[str]) -> dict[str, torch.Tensor]:
        text_config = self.model.config.text_config
        length = min(getattr(text_config, "max_position_embeddings", 512), 512)
        return self.processor.tokenizer(
            captions, padding=self.padding, truncation=True, max_length=length, return_tensors="pt"
        ).to(self.model.device)

    def encode_pictures(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Unit vectors `(B, dim)`, and the tokens that re-ranking reads."""
        features = self.model.get_image_features(pixel_values=pixel_values.to(self.model.device)).pooler_output
        return torch.nn.functional.normalize(features, dim=-1), None

    def encode_captions(self, captions: list[str]) -> torch.Tensor:
        """Unit vectors `(B, dim)`."""
        features = self.model.get_text_features(**self.tokens(captions)).pooler_output
        return torch.nn.functional.normalize(features, dim=-1)


class BlipScorer(DualScorer):
    """BLIP: two towers for a first ranking, and a matching head in which the caption reads the picture."""

    reranks = True

    def __init__(self, path: str):
        super().__init__(BlipForImageTextRetrieval.from_pretrained(path, pitome=False), path)

    def encode_pictures(self, pixel_values):
        tokens = self.model.vision_model(pixel_values=pixel_values.to(self.model.device)).last_hidden_state
        return torch.nn.functional.normalize(self.model.vision_proj(tokens[:, 0]), dim=-1), tokens

    def encode_captions(self, captions):
        states = self.model.text_encoder(**self.tokens(captions)).last_hidden_state
        return torch.nn.functional.normalize(self.model.text_proj(states[:, 0]), dim=-1)

    def rerank(self, similarity: torch.Tensor, tokens: list[torch.Tensor], captions: list[str], top: int):
        """Adds the matching head's score to the `top` best of every picture and of every caption.

        Args:
            similarity (`torch.Tensor` of shape `(pictures, captions)`): of the two towers.
            tokens: what [`~BlipScorer.encode_pictures`] gave, batch by batch.

        Returns:
            Scores `(pictures, captions)`, in which every re-ranked pair is before every other; the seconds it took.
        """
        best = torch.zeros_like(similarity, dtype=torch.bool)
        best.scatter_(1, similarity.topk(min(top, similarity.shape[1]), dim=1).indices, True)
        best.scatter_(0, similarity.topk(min(top, similarity.shape[0]), dim=0).indices, True)
        scores, start, picture = similarity - 1000.0, time.perf_counter(), 0
        for batch in tokens:
            for row in range(len(batch)):
                # A batch of one picture for all its captions: its keys and values are computed once.
                states = take_samples(batch, slice(row, row + 1))
                chosen = best[picture].nonzero().flatten()
                for part in chosen.split(64):
                    text = self.tokens([captions[index] for index in part.tolist()])
                    read = self.model.text_encoder(**text, encoder_hidden_states=states).last_hidden_state
                    match = self.model.itm_head(read[:, 0])[:, 1]
                    scores[picture, part] = similarity[picture, part] + match.to(scores)
                picture += 1
        return scores, time.perf_counter() - start
