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

"""`optimum-cli pitome summary`."""

from __future__ import annotations

import argparse

import torch
from transformers import AutoModel

from ..analysis import pitome_summary
from ..apply import apply_pitome
from ..benchmarking.benchmark import lengths_of
from .arguments import configured, settings_name, several_settings
from .results import Results


def run(args: argparse.Namespace, results: Results) -> None:
    config, keyword = configured(args)
    # On the meta device a model of any size takes no memory and no weights.
    with torch.device("meta"):
        model = AutoModel.from_config(config, **keyword)
    lengths = lengths_of(model, args.sequence_length)
    if args.sequence_length is not None and not any(lengths):
        raise ValueError("--sequence-length is for texts: an image's tokens follow from its size (--image-size).")
    for settings in several_settings(args) or [None]:
        if settings is not None:
            apply_pitome(model, settings)
            results.add(settings_name(settings))
        summary = pitome_summary(model, lengths, args.count, image_size=args.image_size)
        results.add(summary, summaries=[{"given": settings, **summary.to_dict()}])
