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
and the methods that put a model together from two checkpoints.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any


_UNSET = object()
#: transformers' folder → how a model of it is made of two checkpoints.
COMPOSERS = {
    "vision_text_dual_encoder": "from_vision_text_pretrained",
    "vision_encoder_decoder": "from_encoder_decoder_pretrained",
    "encoder_decoder": "from_encoder_decoder_pretrained",
}
_WRAPPED = ("from_pretrained", "_from_config", "save_pretrained", "_upload_modified_files")


def install(modeling_utils: ModuleType) -> None:
    """Wraps the methods of `PreTrainedModel`; called once, when `transformers.modeling_utils` has been imported.

    Raises:
        RuntimeError: if this transformers has no such methods.
    """
    model_class = modeling_utils.PreTrainedModel
    missing = [name for name in _WRAPPED if not hasattr(model_class, name)]
    if missing:
        raise RuntimeError(
            f"optimum_pitome does not fit this transformers: PreTrainedModel has no {', '.join(missing)}. Install a "
            "version from the README's table, or a newer optimum_pitome."
        )
    if getattr(model_class.from_pretrained, "_pitome", False):
        return
    _wrap_from_pretrained(model_class)
    _wrap_from_config(model_class)
    _wrap_save_pretrained(model_class)
    _wrap_upload(model_class)


def _wrap_from_pretrained(model_class: type) -> None:
    original = vars(model_class)["from_pretrained"].__func__

    @functools.wraps(original)
    def from_pretrained(cls, pretrained_model_name_or_path, *args, pitome=_UNSET, config=None, **kwargs):
        # A checkpoint that has `pitome` in its config.json: the auto classes put the keyword there.
        asked = pitome if pitome is not _UNSET else getattr(config, "pitome", None)
        _check(asked)  # before the weights are read
        try:
            loaded = original(cls, pretrained_model_name_or_path, *args, config=config, **kwargs)
        except Exception:
            # A recipe has no weights, and whoever names a class of transformers did not ask the auto classes.
            from .recipe_lookup import explain_recipe, find_recipe, load_base_model

            found = find_recipe(pretrained_model_name_or_path, kwargs)
            if found is None:
                raise
        else:
            _finish(loaded[0] if isinstance(loaded, tuple) else loaded, pitome)
            return loaded
        recipe, kwargs = found
        explain_recipe(recipe, pretrained_model_name_or_path, cls.__name__)
        kwargs |= {"config": config} | ({} if pitome is _UNSET else {"pitome": pitome})
        return load_base_model(cls.from_pretrained, recipe, pretrained_model_name_or_path, args, kwargs)

    from_pretrained._pitome = True
    model_class.from_pretrained = classmethod(from_pretrained)


def _wrap_from_config(model_class: type) -> None:
    original = vars(model_class)["_from_config"].__func__

    @functools.wraps(original)
    def _from_config(cls, config, pitome=_UNSET, **kwargs):
        _check(pitome if pitome is not _UNSET else getattr(config, "pitome", None))
        model = original(cls, config, **kwargs)
        _finish(model, pitome)
        return model

    model_class._from_config = classmethod(_from_config)


def install_composer(module: ModuleType) -> None:
    """Wraps the method of `COMPOSERS` in a module of transformers that has been imported."""
    name = COMPOSERS[module.__name__.split(".")[2]]
    for model_class in [value for value in vars(module).values() if isinstance(value, type) and name in vars(value)]:
        if not getattr(vars(model_class)[name].__func__, "_pitome", False):
            _wrap_composer(model_class, name)


def _wrap_composer(model_class: type, name: str) -> None:
    original = vars(model_class)[name].__func__

    @functools.wraps(original)
    def compose(cls, *args, pitome=_UNSET, **kwargs):
        _check(pitome)
        model = original(cls, *args, **kwargs)
        if pitome is not _UNSET:
            _finish(model, pitome)
        return model

    compose._pitome = True
    setattr(model_class, name, classmethod(compose))


def _wrap_save_pretrained(model_class: type) -> None:
    original = vars(model_class)["save_pretrained"]

    @functools.wraps(original)
    def save_pretrained(self, save_directory, *args, **kwargs):
        result = original(self, save_directory, *args, **kwargs)
        if getattr(self.config, "pitome", None) is not None and kwargs.get("is_main_process", True):
            from .cards import write_card

            write_card(self, save_directory)
        return result

    model_class.save_pretrained = save_pretrained


def _wrap_upload(model_class: type) -> None:
    # The last step of `push_to_hub`: by now transformers has put the repository's card there, or a blank one.
    original = model_class._upload_modified_files

    @functools.wraps(original)
    def _upload_modified_files(self, working_dir, repo_id, *args, **kwargs):
        if getattr(getattr(self, "config", None), "pitome", None) is not None:
            from .cards import write_card

            write_card(self, working_dir, repository=repo_id)
        return original(self, working_dir, repo_id, *args, **kwargs)

    model_class._upload_modified_files = _upload_modified_files


def _check(value: Any) -> None:
    if value is not None and value is not _UNSET:
        from .configuration import PiToMeConfig

        PiToMeConfig.from_value(value)


def _finish(model: Any, pitome: Any) -> None:
    """Rewrites a loaded model as asked: by the keyword, else by its configuration."""
    config = model.config
    if pitome is _UNSET:
        pitome = getattr(config, "pitome", None)
        if pitome is None and not hasattr(config, "pitome"):
            return
    if hasattr(config, "pitome"):
        # Until the model is rewritten, its configuration must not say that it is.
        del config.pitome
    from .modeling.rewrite import apply_pitome, remove_pitome

    if pitome is None or pitome is False:
        remove_pitome(model)
    else:
        apply_pitome(model, pitome)
