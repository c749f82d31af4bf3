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

"""[`Architecture`]: how to rewrite one encoder class."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.utils import output_capturing

from .attention import MergingAttention
from .layer import MergingLayer
from .signatures import names


@dataclass(frozen=True)
class Architecture:
    """How to rewrite one encoder class. Arguments of [`register_architecture`].

    Attributes:
        encoder_class (`type`): The module whose `forward` runs the layers and passes its `**kwargs` on to each.
            A subclass with a `forward` of its own must do so, too.
        layer_class (`type`): Subclass of [`MergingLayer`] and of the layer's own class, with the same name.
        layers (`str`): Where the encoder keeps its layers.
        num_layers (`Callable[[config], int]`, *optional*):
            How many of them, from the first, are the encoder's, where later ones get tokens of another kind, too.
        attention (`str`): Where a layer keeps the module that calls the attention interface.
        attention_class (`type` or `tuple[type, ...]`, *optional*):
            Where that module must be replaced: subclass of [`MergingAttention`] and of its own class, with the same
            name and the same parameters of `forward`; one for each class that it may have. Where nothing merges, the
            own class's `forward` runs.
        attention_interface (`bool`):
            Whether attention goes through the interface. `False`: the layer class reads the token sizes by itself.
        token_arguments (`Mapping[str, Cut | None]`):
            Arguments of a layer that have an entry for each token (rotary embeddings, position biases), and how to cut
            them to the tokens that are left: [`~token_arguments.cut_rotary`], [`~token_arguments.cut_pairs`], or a
            function of yours. `None` for other tensors that layers get; any that is not named is an error.
        num_prefix_tokens (`int` or `Callable[[config], int]`):
            Special tokens at the front of the sequence, which never merge: 1 for a class token, 0 for none.
        num_suffix_tokens (`Callable[[config], int]`, *optional*): The same at its end (detection tokens).
        class_token (`Callable[[config], bool]`, *optional*):
            Whether the first token of all sums up the others, so that its attention tells which of them matter. By
            default it does where there is a prefix or `special_tokens`.
        num_tokens (`Callable[[config], int]`, *optional*): Sequence length for the configured input size (summaries).
        any_length (`bool`):
            Whether inputs have the length that they have, as texts do, so that `num_tokens` is that of usual ones.
        width (`Callable[[config], int]`):
            Features of a token in a layer (summaries), where the configuration calls something else its `hidden_size`.
        special_tokens (`Callable[[Mapping], tuple[Tensor | None, int]]`, *optional*):
            From the encoder's arguments by name, further tokens that never merge (`(B, N)` bool) and the most that a
            sample can have.
        read_arguments (`Callable[[Mapping], Mapping]`, *optional*):
            From the encoder's arguments by name, those that `special_tokens` and the masks are read from, where they
            reach the encoder in another form.
        reads (`tuple[int, ...]`):
            Hidden states that the model around the encoder reads, where it reads nothing else: `i` is what layer `i`
            receives. They come with the same tokens, and layers after the last of them need not run.
        part (`str`): What `PiToMeConfig.parts` calls this encoder in a composite model.
        refuses (`Callable[[nn.Module], str | None]`, *optional*):
            Why an encoder of this class cannot merge (a decoder, say); `None` where it can.
        full_length_at (`str`, *optional*):
            A sub-module of the encoder, after the last layer, whose output returns to the original length whatever
            `unmerge` says: what follows inside the encoder (a pooling head) must see each token's weight.
        forward (`Callable`, *optional*):
            Runs in place of the encoder's own `forward` where tokens merge, if that keeps its keyword arguments from
            the layers: takes the encoder, its arguments and further keyword arguments, and passes these on.
        methods (`Mapping[str, Callable]`):
            Where the layers are run by other methods than `forward`: their names, and what runs in place of each where
            tokens merge. It takes what `forward` above takes, and returns what the method returns, at the original
            length.
        read_config (`Callable[[nn.Module], Any]`, *optional*):
            Where an encoder keeps no `config`: makes what stands for it, with `hidden_size`, `num_attention_heads`
            and whatever functions here read of a configuration.
        window (`Callable[[nn.Module], int | None]`, *optional*):
            From a layer, how far apart (in original positions) two tokens may be that attend to one another in it;
            `None`: any distance. Such layers get a mask of their own from the encoder before anything has merged.
        read_whole (`tuple[str, ...]`):
            Names of the models around the encoder that need every token of it, so that they refuse `unmerge=False`.
        defaults (`Mapping[str, Any]`): Fields of `PiToMeConfig` that differ from the package's defaults.
        budget_defaults (`Mapping[str, Any]`): Those that differ where there is a budget in place of a ratio.
        per_token_defaults (`Mapping[str, Any]`):
            Those of `budget_defaults` that differ where the model around the encoder labels every token of it.
        official (`Callable[[int, int], Mapping[str, Any]]`, *optional*):
            What the released code does in layer `i` of `L`: fields of [`~merging.MergeSpec`], and `merges` (`bool`).
        untraceable (`str`, *optional*):
            Why `torch.export` and compilation in one graph cannot follow the encoder, dense or merging: the end of a
            sentence.
        marks_outputs (`bool`): Whether the hidden states that leave it say how to shorten them (`marks.py`).
    """

    encoder_class: type[nn.Module]
    layer_class: type[MergingLayer]
    layers: str = "layers"
    num_layers: Callable[[Any], int] | None = None
    attention: str = "attention"
    attention_class: type[MergingAttention] | tuple[type[MergingAttention], ...] | None = None
    attention_interface: bool = True
    token_arguments: Mapping[str, Callable[[Any, Any], Any] | None] = field(default_factory=dict)
    num_prefix_tokens: int | Callable[[Any], int] = field(kw_only=True)
    class_token: Callable[[Any], bool] | None = None
    num_suffix_tokens: Callable[[Any], int] | None = None
    num_tokens: Callable[[Any], int] | None = None
    any_length: bool = False
    width: Callable[[Any], int] = lambda config: config.hidden_size
    special_tokens: Callable[[Mapping[str, Any]], tuple[torch.Tensor | None, int]] | None = None
    read_arguments: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    reads: tuple[int, ...] = ()
    part: str = "vision"
    refuses: Callable[[nn.Module], str | None] | None = None
    full_length_at: str | None = None
    forward: Callable[..., Any] | None = None
    methods: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    read_config: Callable[[nn.Module], Any] | None = None
    window: Callable[[nn.Module], int | None] | None = None
    read_whole: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    budget_defaults: Mapping[str, Any] = field(default_factory=dict)
    per_token_defaults: Mapping[str, Any] = field(default_factory=dict)
    official: Callable[[int, int], Mapping[str, Any]] | None = None
    untraceable: str | None = None
    marks_outputs: bool = False

    @property
    def dense_layer_class(self) -> type[nn.Module]:
        """The layer's own class."""
        return own_class(self.layer_class, MergingLayer)

    @property
    def attention_classes(self) -> dict[type[nn.Module], type[MergingAttention]]:
        """The own classes of attention modules that are replaced, and what takes the place of each."""
        return {own_class(ours, MergingAttention): ours for ours in self.replacing_attention}

    @property
    def replacing_attention(self) -> tuple[type[MergingAttention], ...]:
        """`attention_class`, be it none, one or several."""
        given = self.attention_class or ()
        return given if isinstance(given, tuple) else (given,)

    @property
    def reads_token_ids(self) -> bool:
        """Whether tokens can be protected by their ids."""
        if self.special_tokens is None:
            return False
        return self.read_arguments is not None or "input_ids" in names(self.encoder_class.forward)

    @property
    def num_layers_run(self) -> int | None:
        """Layers that run when the encoder serves the model around it. `None`: all of them."""
        # Before transformers 5.24 the model around it asked for all hidden states, so nobody knew which it would read.
        return max(self.reads) if self.reads and hasattr(output_capturing, "select_hidden_states") else None

    def __deepcopy__(self, memo: dict) -> Architecture:
        return self  # nothing in it changes, and a host may have adapted it

    @property
    def runs(self) -> Mapping[str, Callable[..., Any] | None]:
        """Methods of the encoder that run its layers, and what runs in place of each. `None`: the method itself."""
        return self.methods or {"forward": self.forward}

    def config_of(self, encoder: nn.Module) -> Any:
        """The configuration of `encoder`, or what stands for it."""
        return encoder.config if self.read_config is None else self.read_config(encoder)

    def implementation_of(self, encoder: nn.Module) -> str | None:
        """The attention implementation that `encoder` is set to; `None` where no configuration says it."""
        return encoder.config._attn_implementation if self.read_config is None else None

    def count_prefix(self, config: Any) -> int:
        """Special tokens at the front of the sequence of an encoder with this configuration."""
        number = self.num_prefix_tokens
        return number if isinstance(number, int) else number(config)

    def has_class_token(self, config: Any) -> bool:
        """Whether the first token of an encoder with this configuration sums up the others."""
        if self.class_token is not None:
            return self.class_token(config)
        return self.count_prefix(config) > 0 or self.special_tokens is not None

    def count_suffix(self, config: Any) -> int:
        """Special tokens at the end of the sequence of an encoder with this configuration."""
        return 0 if self.num_suffix_tokens is None else self.num_suffix_tokens(config)

    def reads_pictures(self, config: Any) -> bool:
        """Whether an encoder with this configuration reads pictures whose size the configuration says."""
        sized = self.num_tokens is not None and not self.any_length and self.part != "text"
        return sized and getattr(config, "image_size", None) is not None

    def count_tokens(self, config: Any, image_size: int | list[int] | None = None) -> int | None:
        """Tokens that enter an encoder with this configuration, special ones included: of pictures of `image_size`
        pixels (by default of the configured size), or of the longest text. `None` where nobody says it."""
        if image_size is not None and self.reads_pictures(config):
            config = copy.copy(config)
            config.image_size = image_size
        return None if self.num_tokens is None else self.num_tokens(config)

    def find_layers(self, encoder: nn.Module) -> nn.ModuleList:
        layers = find_submodule(encoder, self.layers, "layers", "register_architecture")
        return layers if self.num_layers is None else layers[: self.num_layers(self.config_of(encoder))]

    def find_attention(self, layer: nn.Module) -> nn.Module:
        return find_submodule(layer, self.attention, "attention", "register_architecture")


def own_class(module_class: type[nn.Module], mixin: type) -> type[nn.Module]:
    """The class that a merging class rewrites: its first base without `mixin`."""
    return next(base for base in module_class.__mro__ if not issubclass(base, mixin))


def find_submodule(module: nn.Module, path: str, setting: str, function: str) -> nn.Module:
    """The sub-module at `path`, which `function` got as its `setting`.

    Raises:
        ValueError: if there is none.
    """
    try:
        return module.get_submodule(path)
    except AttributeError:
        inside = [name for name, _ in module.named_modules() if name]
        inside = [name for name in inside if not any(step.isdigit() for step in name.split("."))]
        raise ValueError(
            f"{setting}={path!r} was not found in {type(module).__name__}, which has the sub-modules "
            f"{', '.join(inside) or '(none)'}. Correct {setting}= in {function}."
        ) from None
