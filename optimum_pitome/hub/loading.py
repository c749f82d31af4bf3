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

"""The load hook: `from_pretrained(..., pitome=...)`, `from_config`, and the card on save and on push.

Wraps four methods of `PreTrainedModel`, which auto classes, direct classes, `pipeline` and `Trainer` all pass through,
the methods that put a model together from two checkpoints, the function that a load calls last before it looks for the
weights (settings that do not fit are refused there), and the one in which auto classes read the configuration.

What counts everywhere is the keyword; without it, the entry `pitome` of the model's own configuration; without that,
entries in the configurations of its parts (a model that was put together from a rewritten tower has one there), each
for its part. `None` and `False` mean dense. A constructor honours none of them: after it, call `apply_pitome`.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..modeling.wrap import wrap
from . import UNSET


#: transformers' folder → how a model of it is made of two checkpoints.
COMPOSERS = {
    "vision_text_dual_encoder": "from_vision_text_pretrained",
    "vision_encoder_decoder": "from_encoder_decoder_pretrained",
    "encoder_decoder": "from_encoder_decoder_pretrained",
}
#: Arguments of `from_pretrained` that also say how to look for the processors beside the weights.
_HUB_ARGUMENTS = ("cache_dir", "local_files_only", "token")
#: `from_pretrained` calls it when the configuration is final, and looks for the weights next.
_BEFORE_WEIGHTS = "get_hf_quantizer"
_WRAPPED = ("from_pretrained", "_from_config", "save_pretrained", "_upload_modified_files")


@dataclass
class _Load:
    """A call of `from_pretrained` that has not come to the weights yet.

    Attributes:
        pitome: the keyword, or `UNSET`.
        preview (`Callable[[PreTrainedConfig], nn.Module | None]`): Builds the model without weights.
        hub (`dict[str, Any]`): arguments that say how to look for what lies beside the weights.
    """

    pitome: Any
    preview: Callable[[Any], Any]
    hub: dict[str, Any]


_load: contextvars.ContextVar[_Load | None] = contextvars.ContextVar("pitome_load", default=None)

#: Set while a composer loads the parts of a model: it decides for them. `"preview"`: they are built without weights.
_composing: contextvars.ContextVar[str | None] = contextvars.ContextVar("pitome_composing", default=None)


class _Previewed(Exception):
    """Leaves `from_pretrained` before the weights, with the model."""


def install(modeling_utils: ModuleType) -> None:
    """Wraps the methods of `PreTrainedModel`; called once, when `transformers.modeling_utils` has been imported.

    Raises:
        RuntimeError: if this transformers has no such methods.
    """
    model_class = modeling_utils.PreTrainedModel
    missing = [name for name in _WRAPPED if not hasattr(model_class, name)]
    if missing:
        from ..modeling.requirements import supported

        raise RuntimeError(
            f"optimum_pitome does not fit this transformers: PreTrainedModel has no {', '.join(missing)}. Install "
            f"{supported('transformers')}, or a newer optimum_pitome."
        )
    wrap(model_class, "from_pretrained", _from_pretrained)
    wrap(model_class, "_from_config", functools.partial(_from_config, model_class))
    wrap(model_class, "save_pretrained", _save_pretrained)
    wrap(model_class, "_upload_modified_files", _upload_modified_files)
    if hasattr(modeling_utils, _BEFORE_WEIGHTS):  # else what does not fit is refused after the weights were read
        wrap(modeling_utils, _BEFORE_WEIGHTS, _check_before_weights)


def install_config(configuration_utils: ModuleType) -> None:
    """Wraps the method of `PreTrainedConfig` that takes keywords out which belong to a configuration."""
    wrap(configuration_utils.PreTrainedConfig, "from_dict", _from_dict)


def _from_dict(original: Callable) -> Callable:
    # An entry `pitome` would take the keyword of whoever loads a model, and nobody could tell them apart any more.
    def from_dict(cls, config_dict, **kwargs):
        if "pitome" not in kwargs or not kwargs.get("return_unused_kwargs"):
            return original(cls, config_dict, **kwargs)
        keyword = {"pitome": kwargs.pop("pitome")}
        config, unused = original(cls, config_dict, **kwargs)
        return config, unused | keyword

    return from_dict


def _from_pretrained(original: Callable) -> Callable:
    def from_pretrained(cls, pretrained_model_name_or_path, *args, pitome=UNSET, config=None, **kwargs):
        from .entries import check_values, rewrite

        def preview(final_config):
            from .preview import preview

            return preview(cls, final_config, args, kwargs)

        composing = _composing.get()
        if composing is None:
            check_values(pitome, config)  # the auto classes have read the configuration, others have not
        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
        token = _load.set(_Load(pitome, preview, hub))
        try:
            loaded = original(cls, pretrained_model_name_or_path, *args, config=config, **kwargs)
        except _Previewed as found:
            return found.args[0]
        except Exception:
            # A recipe has no weights, and whoever names a class of transformers did not ask the auto classes.
            from .recipe_lookup import explain_recipe, find_recipe, load_base_model

            recipe = find_recipe(pretrained_model_name_or_path, kwargs)
            if recipe is None:
                raise
        else:
            if composing is None:
                rewrite(loaded[0] if isinstance(loaded, tuple) else loaded, pitome, **hub)
            return loaded
        finally:
            _load.reset(token)
        explain_recipe(recipe, pretrained_model_name_or_path, cls.__name__)
        kwargs |= {"config": config} | ({} if pitome is UNSET else {"pitome": pitome})
        return load_base_model(cls.from_pretrained, recipe, pretrained_model_name_or_path, args, kwargs)

    return from_pretrained


def _check_before_weights(original: Callable) -> Callable:
    def get_hf_quantizer(config, *args, **kwargs):
        load = _load.get()
        if load is not None:
            _load.set(None)
            if _composing.get() == "preview":
                raise _Previewed(load.preview(config))
            if _composing.get() is None:
                from .entries import check_before_weights

                check_before_weights(load.pitome, config, load.preview, **load.hub)
        return original(config, *args, **kwargs)

    return get_hf_quantizer


def _from_config(model_class: type, original: Callable) -> Callable:
    def from_config(cls, config, pitome=UNSET, **kwargs):
        from .entries import check_values, entries, rewrite

        if pitome is UNSET and (not entries(config) or _is_for_a_part(model_class)):
            return original(cls, config, **kwargs)
        check_values(pitome, config)
        model = original(cls, config, **kwargs)
        rewrite(model, pitome)
        return model

    return from_config


def _is_for_a_part(model_class: type) -> bool:
    """Whether the caller's caller, or one above, is the constructor of a model: then this is about a part of it, and
    what loads the whole model decides."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "__init__" and isinstance(frame.f_locals.get("self"), model_class):
            return True
        frame = frame.f_back
    return False


def install_composer(module: ModuleType) -> None:
    """Wraps the method of `COMPOSERS` in a module of transformers that has been imported."""
    name = COMPOSERS[module.__name__.split(".")[2]]
    for model_class in [value for value in vars(module).values() if isinstance(value, type) and name in vars(value)]:
        wrap(model_class, name, _compose)


def _compose(original: Callable) -> Callable:
    def compose(cls, *args, pitome=UNSET, **kwargs):
        from .entries import check_values, rewrite

        if pitome is UNSET:
            return original(cls, *args, **kwargs)
        check_values(pitome)
        if pitome is not None and pitome is not False:
            _check_composition(original, cls, args, kwargs, pitome)
        with _setting(_composing, "load"):
            model = original(cls, *args, **kwargs)
        rewrite(model, pitome)
        return model

    return compose


def _check_composition(original: Callable, cls: type, args: tuple, kwargs: dict[str, Any], pitome: Any) -> None:
    """Runs a composer with parts that have no weights, and checks what comes out."""
    import torch

    from .entries import plan

    if any(isinstance(value, torch.nn.Module) for value in (*args, *kwargs.values())):
        return  # putting a model together changes its parts, and these are somebody's
    try:
        # What the composer itself builds has weights, but is small. The caller's random numbers stay the same.
        with torch.random.fork_rng(devices=[]), _setting(_composing, "preview"):
            model = original(cls, *args, **kwargs)
    except Exception:  # loading says it better
        return
    plan(model, pitome)


@contextlib.contextmanager
def _setting(variable: contextvars.ContextVar, value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _save_pretrained(original: Callable) -> Callable:
    def save_pretrained(self, save_directory, is_main_process=True, *args, **kwargs):
        result = original(self, save_directory, is_main_process, *args, **kwargs)
        if is_main_process:
            _write_card(self, save_directory)
        return result

    return save_pretrained


def _upload_modified_files(original: Callable) -> Callable:
    # The last step of `push_to_hub`: by now transformers has put the repository's card there, or a blank one.
    def upload(self, working_dir, repo_id, *args, **kwargs):
        _write_card(self, working_dir, repository=repo_id)
        return original(self, working_dir, repo_id, *args, **kwargs)

    return upload


def _write_card(model: Any, directory: Any, **about: Any) -> None:
    from .entries import entries

    if entries(model.config):
        from .model_cards import write_card

        write_card(model, directory, **about)
    else:  # a dense model needs nothing of this package to be saved, but may have merged before
        from ..cards.card import write_section

        write_section(directory, {})
