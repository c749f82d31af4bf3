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
"""Every model that a test of transformers makes is rewritten the moment it is finished, so that the test, which knows
nothing of this, goes on with a model that merges."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from optimum_pitome import UnsupportedArchitectureError, apply_pitome
from optimum_pitome.modeling import layer


class Rewriting:
    """What becomes of new models, and what became of them.

    Attributes:
        setting: what [`apply_pitome`] gets. `None`: models stay as they are.
        rewritten (`set[str]`): names of classes that were rewritten since [`begin`].
        left_dense (`dict[str, str]`): name of a class → why it was not.
        merges (`int`): how many layers merged tokens (outside of `torch.compile`).
    """

    def __init__(self) -> None:
        self._depth = threading.local()
        self.begin(None)

    def begin(self, setting: Any) -> None:
        """A new test, with nothing counted yet."""
        self.setting, self.rewritten, self.left_dense, self.merges = setting, set(), {}, 0

    def install(self) -> None:
        """Wraps every way in which transformers makes a model, for the classes that are there and those to come."""
        _wrap_class_method(PreTrainedModel, "from_pretrained", self._finishing)
        _wrap_class_method(PreTrainedModel, "_from_config", self._finishing)
        for model_class in _subclasses(PreTrainedModel):
            self._wrap_constructor(model_class)
        rewriting = self

        def init_subclass(original: Callable) -> Callable:
            def __init_subclass__(cls, *args, **kwargs):
                original(cls, *args, **kwargs)
                rewriting._wrap_constructor(cls)

            return __init_subclass__

        _wrap_class_method(PreTrainedModel, "__init_subclass__", init_subclass)
        match_tokens = layer.match_tokens

        def counting(*args, **kwargs):
            plan = match_tokens(*args, **kwargs)
            if plan is not None and not torch.compiler.is_compiling():
                rewriting.merges += 1
            return plan

        layer.match_tokens = counting

    def _wrap_constructor(self, model_class: type) -> None:
        if "__init__" in vars(model_class):
            model_class.__init__ = functools.wraps(model_class.__init__)(self._finishing(model_class.__init__))

    def _finishing(self, original: Callable) -> Callable:
        """`original` makes a model, or is a constructor. The outermost such call rewrites what it made."""

        def finish(owner, *args, **kwargs):
            depth = getattr(self._depth, "value", 0)
            if depth == 0:
                # Tests use a configuration again for the next class, which may be one that cannot merge.
                for config in [*args, *kwargs.values()]:
                    if isinstance(config, PreTrainedConfig):
                        vars(config).pop("pitome", None)
            self._depth.value = depth + 1
            try:
                made = original(owner, *args, **kwargs)
            except UnsupportedArchitectureError as error:
                # A checkpoint of a class that merges, whose entry the class at hand refuses: users pass pitome=False.
                if depth or self.setting is None:
                    raise
                self.left_dense[owner.__name__] = str(error)
                made = original(owner, *args, pitome=False, **kwargs)
            finally:
                self._depth.value = depth
            if depth == 0 and self.setting is not None:
                model = owner if made is None else made
                self._rewrite(model[0] if isinstance(model, tuple) else model)
            return made

        return finish

    def _rewrite(self, model: PreTrainedModel) -> None:
        name = type(model).__name__
        try:
            apply_pitome(model, self.setting)
        except ValueError as error:  # the class, or these settings for it, are refused
            self.left_dense[name] = str(error)
        else:
            self.rewritten.add(name)


def _subclasses(model_class: type) -> list[type]:
    found = dict.fromkeys(model_class.__subclasses__())
    for subclass in list(found):
        found |= dict.fromkeys(_subclasses(subclass))
    return list(found)


def _wrap_class_method(owner: type, name: str, make: Callable[[Callable], Callable]) -> None:
    original = vars(owner)[name].__func__
    setattr(owner, name, classmethod(functools.wraps(original)(make(original))))
