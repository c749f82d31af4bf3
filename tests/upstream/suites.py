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
"""transformers' shared suites over the tiny models of `tests/zoo`, for where its tests of each model are not at hand.

[`test_cases`] is called by the files that [`source`] writes into `tests/models` of an unpacked source distribution.
"""

from __future__ import annotations

import functools
import inspect
import sys
import unittest
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from zoo import Case, all_cases


BATCH_SIZE = 3


def folder_of(case: Case) -> str:
    """The folder of `transformers.models`, and of its tests, that the class is in."""
    return case.model_class.__module__.split(".")[2]


def folders() -> list[str]:
    """Those of every class that can merge."""
    return sorted({folder_of(case) for case in all_cases()})


def test_cases(folder: str, tests: str) -> dict[str, type[unittest.TestCase]]:
    """A test case for each configuration in a folder, with all the classes that share it.

    Args:
        folder (`str`): of `transformers.models`.
        tests (`str`): the name of the package with the shared suites.
    """
    groups: dict[Any, list[Case]] = {}
    for case in all_cases():
        if folder_of(case) == folder and issubclass(case.model_class, PreTrainedModel):
            groups.setdefault((case.config, case.inputs), []).append(case)
    made = {}
    for (config, _), cases in groups.items():
        bases = [import_module(f"{tests}.test_modeling_common").ModelTesterMixin]
        classes = tuple(dict.fromkeys(case.model_class for case in cases))
        if any(model_class.__name__.endswith("Backbone") for model_class in classes):
            bases.insert(0, import_module(f"{tests}.test_backbone_common").BackboneTesterMixin)
        sample = config()
        attributes = {
            "all_model_classes": classes,
            "config_class": type(sample),
            "is_encoder_decoder": bool(getattr(sample, "is_encoder_decoder", False)),
            "_is_composite": bool(sample.sub_configs),
            "test_resize_embeddings": hasattr(sample.get_text_config(), "vocab_size"),
            "setUp": functools.partialmethod(_set_up, cases),
        }
        name = f"{cases[0].id}Test"
        made[name] = type(name, (*bases, unittest.TestCase), attributes)
    return made


def _set_up(test: unittest.TestCase, cases: list[Case]) -> None:
    test.model_tester = ModelTester(cases)


class ModelTester:
    """What the suites ask of the tester of a model: a configuration with inputs, and numbers that they expect."""

    batch_size = BATCH_SIZE
    is_training = True
    num_choices = 2

    def __init__(self, cases: list[Case]) -> None:
        self._case = cases[0]
        config = self.get_config()
        of_encoder = _innermost(config)
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size"):
            value = getattr(config, name, None) or getattr(of_encoder, name, None)
            if value is not None:
                setattr(self, name, value)
        for name in ("vision_config", "text_config", "audio_config"):
            part = getattr(config, name, None)
            if isinstance(part, PreTrainedConfig):
                setattr(self, name, part.to_dict())
        for name, value in _lengths(self._case).items():
            setattr(self, name, value)
        if {"image_size", "patch_size"} <= vars(self).keys() and isinstance(self.image_size, int):
            self.mask_length = (self.image_size // self.patch_size) ** 2
            self.num_masks = self.mask_length // 2

    def get_config(self) -> PreTrainedConfig:
        return self._case.config()

    def prepare_config_and_inputs(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        return self.get_config(), self._case.inputs(BATCH_SIZE)

    prepare_config_and_inputs_for_common = prepare_config_and_inputs


@functools.cache
def _lengths(case: Case) -> dict[str, int]:
    """The lengths of sequences, as the model itself has them without merging."""
    model = case.build("eager")
    wanted = {"output_hidden_states": True} if _takes(model, "output_hidden_states") else {}
    with torch.no_grad():
        output = model(**case.inputs(BATCH_SIZE), **wanted)
    found = {}
    for name, output_name in (
        ("seq_length", "hidden_states"),
        ("encoder_seq_length", "encoder_hidden_states"),
        ("decoder_seq_length", "decoder_hidden_states"),
    ):
        states = getattr(output, output_name, None)
        if states:
            found[name] = states[0].shape[-2]
            found.setdefault("expected_num_hidden_layers", len(states))
    if "encoder_seq_length" in found:
        found["key_length"] = found["encoder_seq_length"]
    return found


def _takes(model: PreTrainedModel, name: str) -> bool:
    parameters = inspect.signature(model.forward).parameters
    return name in parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _innermost(config: PreTrainedConfig) -> PreTrainedConfig:
    """The first part that has layers."""
    for part in _parts(config):
        if getattr(part, "num_hidden_layers", None):
            return part
    return config


def _parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    yield config
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig):
            yield from _parts(part)


if __name__ == "__main__":
    sys.stdout.write("\n".join(folders()) + "\n")
