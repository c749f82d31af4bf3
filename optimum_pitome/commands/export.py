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

"""`optimum-cli pitome export`."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.utils import cached_file

from ..export.export import export_pitome
from ..export.files import check_output, check_source
from ..export.modules import check_class
from ..export.requirements import check_request
from .preparing import check_tokenizer
from .pushing import check_push, push
from .results import Results
from .tasks import check_numbers
from .unlabelled import load_inputs, model_class, one_setting


#: Enough for a comparison and for calibration, where nobody says how many samples there should be.
_NUM_SAMPLES = 64


def run(args: argparse.Namespace, results: Results) -> None:
    check_request(args.format, args.quantize, args.opset, args.part)
    check_numbers(args)
    for option in ("dataset_config", "dataset_revision", "split", "max_samples", "input_columns", "max_length"):
        if args.dataset is None and getattr(args, option) is not None:
            raise ValueError(f"--{option.replace('_', '-')} is about --dataset: name one, or leave it out.")
    check_output(args.output)
    check_push(args)
    check_source(args.model, args.revision)
    config, keyword = one_setting(args)
    model = _load(args, config, keyword, results)
    kind = "text" if args.part == "text" or getattr(model, "main_input_name", "input_ids") == "input_ids" else "image"
    kind = "image" if args.part == "vision" else kind
    result = export_pitome(
        model,
        args.output,
        args.format,
        part=args.part,
        quantize=args.quantize,
        opset=args.opset,
        processor=_processor(args, kind, results),
        inputs=[] if args.dataset is None else load_inputs(args, kind, _NUM_SAMPLES)[0],
        tolerance=args.tolerance,
        repository=args.push_to_hub,
    )
    results.add(result, **result.to_dict())
    if args.push_to_hub is not None:
        push(args, args.output, results, "Exported model", args.format)


def _load(args: argparse.Namespace, config: Any, keyword: dict[str, Any], results: Results) -> nn.Module:
    """The model of sentence-transformers where there are pooling settings, else that of the checkpoint's class; in
    float32, since not every runtime has other dtypes."""
    keyword = {**keyword, "dtype": torch.float32}
    where = {"revision": args.revision, "_raise_exceptions_for_missing_entries": False}
    if cached_file(args.model, "modules.json", **where) is not None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ImportError(
                f"{args.model} has pooling settings of sentence-transformers: pip install sentence-transformers"
            ) from None
        return SentenceTransformer(args.model, revision=args.revision, model_kwargs=keyword, device="cpu")
    chosen = model_class(config)
    check_class(chosen, args.part)
    model, loaded = chosen.from_pretrained(args.model, revision=args.revision, output_loading_info=True, **keyword)
    missing = sorted({name.rpartition(".")[0] for name in loaded["missing_keys"]})
    if missing:
        results.note(
            f"{args.model} has no weights of {', '.join(missing)}. They are random in the exported file: do not use "
            "the outputs that they make."
        )
    return model


def _processor(args: argparse.Namespace, kind: str, results: Results) -> Any:
    """What makes the model's inputs; `None` where none lies beside it."""
    loader = AutoTokenizer if kind == "text" else AutoImageProcessor
    try:
        processor = loader.from_pretrained(args.model, revision=args.revision)
        if kind == "text":
            check_tokenizer(processor, args.model)
        return processor
    except (OSError, ValueError, KeyError, ImportError) as error:
        what = "tokenizer" if kind == "text" else "image processor"
        reason = str(error).strip().partition("\n")[0]
        results.note(f"No {what} could be read, so none is written beside the exported file: {reason}")
        return None
