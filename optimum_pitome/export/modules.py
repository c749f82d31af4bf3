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

"""What an exported file computes: a module from named tensors to named tensors, whatever the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from ..modeling.registry import find_architecture
from ..modeling.rewrite import rewritten_encoders
from ..modeling.sentences import is_sentence_transformer, transformers_model
from ..modeling.signatures import names


#: Texts that merge are padded to so many tokens in the file: a layer's plan has room for the special tokens of a pair.
_SHORTEST = 4

_KINDS = {"pixel_values": "image", "input_ids": "text"}
_SOUND = ("input_values", "input_features")

#: Part of a model with two encoders: what it reads, what its features are called, and the method that makes them.
_FEATURES = {
    "vision": ("image", "image_embeds", "get_image_features"),
    "text": ("text", "text_embeds", "get_text_features"),
}


class ExportedModule(nn.Module):
    """
    Args:
        model (`torch.nn.Module`): what runs.
        kind (`str`): `"image"` (`pixel_values`) or `"text"` (`input_ids`, `attention_mask`, ...).
        call (`Callable[[nn.Module, dict], Any]`): runs `model` on the inputs.
        pad_token_id (`int`): of texts.
    """

    def __init__(self, model: nn.Module, kind: str, call: Callable[..., Any], pad_token_id: int = 0):
        super().__init__()
        self.model, self.kind, self._call, self._pad_token_id = model, kind, call, pad_token_id
        # Not where nothing merges: SigLIP's text tower, for one, reads the last token, and knows no padding.
        self._pads = any(encoder.pitome.architecture.part == "text" for encoder in rewritten_encoders(model))
        #: Outputs that have one row per token. The exporter is told, since lengths of outputs do not show it.
        self.token_outputs: frozenset[str] = frozenset()

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        length = inputs["input_ids"].shape[1] if self.kind == "text" else 0
        if self._pads and self.kind == "text" and torch.compiler.is_exporting():
            inputs = {name: self._padded(name, value, length) for name, value in inputs.items()}
        found = named_tensors(self._call(self.model, inputs))
        return {name: value[:, :length] if name in self.token_outputs else value for name, value in found.items()}

    def _padded(self, name: str, values: torch.Tensor, length: int) -> torch.Tensor:
        filler = self._pad_token_id if name == "input_ids" else 0
        values = torch.cat([values, values.new_full((values.shape[0], _SHORTEST), filler)], dim=1)
        return values[:, : torch.sym_max(length, _SHORTEST)]


def named_tensors(output: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """The floating-point tensors of a model's output, by name; those of a tuple are numbered."""
    pairs = output.items() if isinstance(output, Mapping) else enumerate(output)
    found = {}
    for name, value in pairs:
        if isinstance(value, torch.Tensor):
            if value.is_floating_point():
                found[f"{prefix}{name}"] = value
        elif isinstance(value, (tuple, list, Mapping)):
            found.update(named_tensors(value, f"{prefix}{name}_"))
    return found


def _whole(model: nn.Module, inputs: dict[str, torch.Tensor]) -> Any:
    return model(**inputs, return_dict=True)


def _features(name: str, method: str) -> Callable[..., Any]:
    def call(model: nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        output = getattr(model, method)(**inputs)
        if isinstance(output, torch.Tensor):
            return {name: output}
        return {name: output.pooler_output}

    return call


def _sentence(model: nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    output = model(dict(inputs))
    return {"last_hidden_state": output["token_embeddings"], "sentence_embedding": output["sentence_embedding"]}


def input_kind(model_class: type[nn.Module], config: PreTrainedConfig) -> str:
    """`"image"` or `"text"`, whichever a model of this class and configuration reads.

    Raises:
        ValueError: if it reads something else.
    """
    taken, name = names(model_class.forward), model_class.main_input_name
    # Some encoders of pictures (Idefics3's) do not say what they read, which stands for a text.
    name = name if name in taken or not taken else taken[0]
    if name in _KINDS and not hasattr(config, "num_frames"):
        return _KINDS[name]
    what = "sound" if name in _SOUND else "clips" if hasattr(config, "num_frames") or "video" in name else name
    raise ValueError(
        f"{model_class.__name__} reads {what}, and only models that read pictures or texts alone are taken here: of "
        "one that reads more, take an encoder. In Python, evaluate, tune_ratios and find_budget take batches of any "
        "inputs."
    )


def check_class(model_class: type[nn.Module], part: str | None) -> None:
    """Refuses what has no single forward to export, before weights are read.

    Raises:
        ValueError: for models that generate; for those with two encoders without `part`; for a part that there is not.
    """
    dual = all(hasattr(model_class, method) for _, _, method in _FEATURES.values())
    generates = hasattr(model_class, "can_generate") and model_class.can_generate()
    if generates:
        instead = (
            "A server such as vLLM reads the checkpoint itself. The image encoder can be exported alone, in Python: "
            "export_pitome(model.get_encoder(modality='image'), folder)."
        )
        raise ValueError(
            f"{model_class.__name__} generates text token by token, with a cache, which one file cannot do. "
            + (instead if hasattr(model_class, "get_image_features") else "Export an encoder or a classifier.")
        )
    if part is None and dual:
        raise ValueError(
            f"{model_class.__name__} has two encoders, which are used apart. Export each with its projection: "
            "part='vision' and part='text' (--part vision, --part text), into a folder of its own."
        )
    method = None if part is None else _FEATURES[part][-1]
    if method is not None and not hasattr(model_class, method):
        raise ValueError(
            f"part={part!r}: {model_class.__name__} has no {method}, so it has no such part. Parts are for models of "
            "images and text, such as CLIP. Leave it out (--part) to export the whole model."
        )


def _check_traceable(model: nn.Module) -> None:
    """
    Raises:
        ValueError: if an encoder in `model` is known to be one that cannot be traced.
    """
    for module in model.modules():
        architecture = find_architecture(module)
        if architecture is not None and architecture.untraceable is not None:
            raise ValueError(
                f"{type(model).__name__} cannot be exported, dense or merging: of {type(module).__name__}, "
                f"{architecture.untraceable}. Use torch.compile, which runs it in several graphs."
            )


def exported_module(model: nn.Module, part: str | None, pad_token_id: int | None = None) -> ExportedModule:
    """What a file of `model` computes.

    Raises:
        ValueError: see [`check_class`]; for models that take more than pictures or texts; and for those that
            cannot be traced.
    """
    if is_sentence_transformer(model):
        if part is not None:
            raise ValueError(f"part={part!r}: a model of sentence-transformers is exported whole. Leave it out.")
        kind, call, config = "text", _sentence, transformers_model(model).config
    else:
        _check_traceable(model)
        check_class(type(model), part)
        config, call = model.config, _whole
        if part is None:
            kind = input_kind(type(model), model.config)
        else:
            kind, name, method = _FEATURES[part]
            call = _features(name, method)
    if pad_token_id is None:
        pad_token_id = getattr(_part_config(config, part), "pad_token_id", None)
    return ExportedModule(model, kind, call, pad_token_id or 0).eval()


def _part_config(config: Any, part: str | None) -> Any:
    return config if part is None else getattr(config, f"{part}_config", config)
