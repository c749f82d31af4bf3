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

"""Two small encoders with rotary embeddings, out of two without: for `rotary_positions.py`.

No trained weights of a rotary family come with a package. Here the table of positions of a trained encoder is taken
away (its mean stays), rotary embeddings take its place, and the encoder that it was teaches it for some minutes to
give the same vector for every token. DINOv2-small becomes a DINOv3 with registers, MiniLM a Jina v3.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from example_data import load, model_path
from PIL import Image
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import (
    AutoTokenizer,
    BertModel,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    JinaEmbeddingsV3Config,
    JinaEmbeddingsV3Model,
    get_cosine_schedule_with_warmup,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


Batch = dict[str, torch.Tensor]

#: Of the DINOv2: the features of the later layers were tuned for saliency.
NUM_LAYERS, IMAGE_SIZE, MAX_LENGTH = 8, 196, 256
#: Of the photos, the first so many are trained on; of the drawings, every other one.
NUM_PHOTOS, CROPS = 20, 24
_BATCH_SIZE, _LEARNING_RATE = 16, 3e-4

#: Parts of the names of a BERT's parameters, and what a Jina v3 calls them.
_JINA_NAMES = {
    "encoder.layer.": "layers.",
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.o_proj",
    "attention.output.LayerNorm": "post_attention_layernorm",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "output.LayerNorm": "post_mlp_layernorm",
}
#: The same for a DINOv2 and a DINOv3.
_DINOV3_NAMES = {
    "encoder.layer.": "model.layer.",
    "patch_embeddings.projection": "patch_embeddings",
    # transformers 5.13 still has the older names of DINOv2.
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "fc1": "up_proj",
    "fc2": "down_proj",
    "layernorm": "norm",
}


def rotary_dinov3(teacher: Dinov2Model, image_size: int, num_registers: int = 4) -> DINOv3ViTModel:
    """The weights of a DINOv2 in a DINOv3, whose registers are new."""
    of = teacher.config
    config = DINOv3ViTConfig(
        hidden_size=of.hidden_size,
        intermediate_size=of.hidden_size * of.mlp_ratio,
        num_hidden_layers=of.num_hidden_layers,
        num_attention_heads=of.num_attention_heads,
        patch_size=of.patch_size,
        image_size=image_size,
        num_register_tokens=num_registers,
        key_bias=True,
        layer_norm_eps=of.layer_norm_eps,
        pos_embed_rescale=None,
    )
    weights = teacher.state_dict()
    positions = weights.pop("embeddings.position_embeddings")
    weights["embeddings.cls_token"] = weights["embeddings.cls_token"] + positions[:, :1]
    bias = "embeddings.patch_embeddings.projection.bias"
    weights[bias] = weights[bias] + positions[0, 1:].mean(dim=0)
    student = DINOv3ViTModel(config)
    _load(student, _renamed(weights, _DINOV3_NAMES), new={"embeddings.register_tokens", "embeddings.mask_token"})
    return student


def rotary_jina(teacher: BertModel, max_length: int) -> JinaEmbeddingsV3Model:
    """The weights of a BERT in a Jina v3, without pooler."""
    of = teacher.config
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    sizes = {name: getattr(of, name) for name in (*names, "type_vocab_size", "layer_norm_eps", "pad_token_id")}
    config = JinaEmbeddingsV3Config(
        **sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=max_length
    )
    weights = {name: weight for name, weight in teacher.state_dict().items() if not name.startswith("pooler.")}
    positions = weights.pop("embeddings.position_embeddings.weight")
    types = "embeddings.token_type_embeddings.weight"
    weights[types] = weights[types] + positions[:max_length].mean(dim=0)
    student = JinaEmbeddingsV3Model(config, add_pooling_layer=False)
    _load(student, _renamed(weights, _JINA_NAMES), new=set())
    return student


def _renamed(weights: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, weight in weights.items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = weight
    return renamed


def _load(student: nn.Module, weights: Mapping[str, torch.Tensor], new: set[str]) -> None:
    kept = {name: weight for name, weight in student.state_dict().items() if name in new}
    student.load_state_dict({**weights, **kept})


def dinov3(num_small: int = 70, num_large: int = 20) -> DINOv3ViTModel:
    """The DINOv3, taught on crops of photos, drawings and Fashion-MNIST: so many batches of 112 pixels, where a
    picture has 64 patches, then so many of 196, where it has 196."""
    teacher = Dinov2Model.from_pretrained(model_path("dinov2_small"), num_hidden_layers=NUM_LAYERS)
    shots, drawings = photos(lambda number: number < NUM_PHOTOS), load("stamps")[0]
    clothes = load("fashion_mnist", "train")[0]
    pictures = [*shots["image"], *drawings.select(range(0, len(drawings), 2))["image"], *clothes[:1000]["image"]]
    crops = [random_crops(pictures.__getitem__, len(pictures), size, _BATCH_SIZE) for size in (112, IMAGE_SIZE)]
    student = rotary_dinov3(teacher, IMAGE_SIZE)
    distil(student, teacher, itertools.chain(itertools.islice(crops[0], num_small), crops[1]), num_small + num_large)
    return student


def jina(num_batches: int = 140) -> JinaEmbeddingsV3Model:
    """The Jina v3, taught on so many batches of pieces of 20 Newsgroups."""
    path = model_path("minilm")
    teacher, tokenizer = BertModel.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    student = rotary_jina(teacher, MAX_LENGTH)
    texts = list(load("newsgroups", "train")[0]["text"])
    distil(student, teacher, random_windows(tokenizer, texts, 96, _BATCH_SIZE // 2), num_batches)
    return student


def photos(wanted: Callable[[int], bool]) -> Dataset:
    """The crops of those photos whose number is `wanted`."""
    import real_assets

    dataset = real_assets.photos(CROPS)
    return dataset.select([index for index, label in enumerate(dataset["label"]) if wanted(label)])


def distil(student: nn.Module, teacher: nn.Module, batches: Sequence[Batch] | Iterable[Batch], num_steps: int) -> None:
    """Teaches `student` the final vectors of `teacher`: of the class token and of every patch or token.

    Both compute in bfloat16, which trains three times as fast on a recent CPU. A batch is `(batch_size, ...)`.
    """
    student.get_input_embeddings().requires_grad_(False)  # patches and words stay what they were
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=_LEARNING_RATE, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, num_steps // 10, num_steps)
    student.train()
    teacher.eval()
    for _, batch in zip(bar := tqdm(range(num_steps), "distilling"), batches):
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                target = teacher(**batch).last_hidden_state.float()
            found = without_registers(student, student(**batch).last_hidden_state.float())
        loss = _distance(found, target, batch.get("attention_mask"))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.4f}")
    student.eval().requires_grad_(True)


def _distance(found: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The mean of `1 - cosine` over all real tokens, and as much again for the first one and the mean one."""
    weights = torch.ones(found.shape[:2]) if mask is None else mask.float()
    loss = ((1 - functional.cosine_similarity(found, target, dim=-1)) * weights).sum() / weights.sum()
    for one, other in zip(first_and_mean(found, weights), first_and_mean(target, weights)):
        loss = loss + (1 - functional.cosine_similarity(one, other, dim=-1)).mean()
    return loss


def first_and_mean(hidden_states: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of `hidden_states` `(B, N, dim)` the first token and the mean of those that `weights` `(B, N)` counts."""
    return hidden_states[:, 0], torch.einsum("bnd,bn->bd", hidden_states, weights / weights.sum(dim=1, keepdim=True))


def without_registers(model: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """`(B, N, dim)` without the registers after the class token."""
    number = getattr(model.config, "num_register_tokens", 0)
    return torch.cat([hidden_states[:, :1], hidden_states[:, 1 + number :]], dim=1)


def random_crops(pictures: Callable[[int], Image.Image], count: int, size: int, batch_size: int) -> Iterator[Batch]:
    """Without end: batches of squares, a third of the area of a picture or more, half of them mirrored.

    Args:
        pictures (`Callable`): from an index below `count` to a picture.
        size (`int`): side of the squares in pixels.
    """
    choice = random.Random(0)
    while True:
        batch = []
        for picture in (pictures(choice.randrange(count)).convert("RGB") for _ in range(batch_size)):
            side = round(choice.uniform(0.6, 1.0) * min(picture.size))
            left, top = (choice.randint(0, length - side) for length in picture.size)
            crop = picture.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
            batch.append(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if choice.random() < 0.5 else crop)
        yield pixels(batch)


def pixels(pictures: Sequence[Image.Image]) -> Batch:
    """Pictures of one size as `pixel_values` `(B, 3, height, width)`, with the statistics of ImageNet."""
    values = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2) / 255
    mean, deviation = (
        torch.tensor(numbers)[:, None, None] for numbers in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    return {"pixel_values": (values - mean) / deviation}


def random_windows(
    tokenize: Callable[..., Any], texts: Sequence[str], length: int, batch_size: int
) -> Iterator[Batch]:
    """Without end: batches of pieces of texts, from a random word on, of at most `length` tokens."""
    choice = random.Random(0)
    while True:
        pieces = []
        for text in choice.choices(texts, k=batch_size):
            words = text.split()
            pieces.append(" ".join(words[choice.randrange(max(1, len(words) - length // 2)) :]))
        tokens = tokenize(pieces, truncation=True, max_length=length, padding=True, return_tensors="pt")
        yield {name: tokens[name] for name in ("input_ids", "attention_mask")}
