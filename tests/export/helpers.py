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
"""Tiny models to export: two layers, of which texts merge in the first, since every layer takes seconds to trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from zoo import all_cases

from optimum_pitome import apply_pitome, remove_pitome
from optimum_pitome.export.formats import Format
from optimum_pitome.modeling.rewrite import rewritten_encoders


CASES = {case.id: case for case in all_cases()}


def merged(name, **settings):
    case = CASES[name]
    config = case.config()
    for part in (config, getattr(config, "vision_config", None), getattr(config, "text_config", None)):
        for field in ("num_hidden_layers", "n_layers"):
            if hasattr(part, field):
                setattr(part, field, 2)
    model = replace(case, config=lambda: config).build()
    first = {"layers": [0]} if model.main_input_name == "input_ids" and not hasattr(config, "vision_config") else {}
    return apply_pitome(model, {"ratio": 0.8, **first, **settings})


def quick_format(change: Callable = lambda value: value, error: Exception | None = None) -> Format:
    """A format whose file is a number and whose runtime is PyTorch, with `change` for its outputs, or an `error` after
    writing has begun."""
    modules = []

    def write(module, example, opset, path):
        modules.append(copy.deepcopy(module))  # a file knows nothing of what becomes of the model
        if not all(encoder.pitome.enabled for encoder in rewritten_encoders(module)):
            remove_pitome(modules[-1].model)
        print("how far it is")  # as exporters do
        path.write_text(str(len(modules) - 1))
        if error is not None:
            raise error

    def load(path, shapes=None):
        module = modules[int(path.read_text())]

        def run(inputs):
            with torch.no_grad():
                return {name: change(value) for name, value in module(**inputs).items()}

        return run

    return Format("model.pt2", write, load)
