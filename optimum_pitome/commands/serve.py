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

"""`optimum-cli pitome serve`: `transformers serve`, whose model merges."""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import importlib.util
import inspect
import os
from collections.abc import Iterator
from typing import Any

import torch
import typer
from transformers import AutoModel, AutoProcessor, PreTrainedConfig
from transformers.cli.serve import Serve
from transformers.cli.serving import model_manager
from transformers.models.auto import modeling_auto

from ..apply import apply_pitome, pitome_disabled
from ..families.llava.counts import SHORT_PROMPTS, num_image_tokens
from ..families.llava.processor import picture_size, tokens_of_a_picture, write_short_prompts
from .results import Results
from .serve_options import check_address
from .unlabelled import one_setting


_PACKAGES = ("fastapi", "uvicorn", "openai")
#: Tables of transformers with the models that `transformers serve` asks.
_ANSWERING = (
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
)


class MergingModelManager(model_manager.ModelManager):
    """Loads the one model of a server, merging, with a processor that writes as many image tokens as it reads.

    Args:
        weights (`str`): where they are, such as `name@revision`; of a recipe the model that it names.
        keyword (`dict`): `pitome=` for loading it; empty where its configuration says it.
    """

    def __init__(self, weights: str, keyword: dict[str, Any], **kwargs: Any):
        self._weights, self._keyword = weights, keyword
        super().__init__(**kwargs)

    def load_model_and_processor(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        model, processor = super().load_model_and_processor(*args, **kwargs)
        if model.config.model_type in SHORT_PROMPTS:
            write_short_prompts(processor, model)
        return model, processor

    def _load_model(self, model_id_and_revision: str, *args: Any, **kwargs: Any) -> Any:
        model = super()._load_model(self.process_model_name(self._weights), *args, **kwargs)
        return apply_pitome(model, self._keyword["pitome"]) if self._keyword else model


def run(args: argparse.Namespace, results: Results) -> None:
    check_address(*_address(args.passed_on))
    name = _with_revision(args)
    config, keyword = one_setting(args)
    _check(args, config, keyword, results)
    # Last: nobody should install packages for a model that cannot be served.
    missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(f'A server needs {", ".join(missing)}: pip install "optimum_pitome[serve]"')
    app = typer.Typer(add_completion=False)
    app.command()(Serve)
    with _loading_with(functools.partial(MergingModelManager, _with_revision(args), keyword)):
        app(args=[name, *args.passed_on], prog_name="optimum-cli pitome serve")


def _address(passed_on: list[str]) -> tuple[str, str]:
    """Where `transformers serve` is to listen: the last that the command line says, else its defaults."""
    default = inspect.signature(Serve.__init__).parameters
    given = dict(zip(passed_on, passed_on[1:]))
    host, port = (given.get(f"--{name}", str(default[name].default)) for name in ("host", "port"))
    return host, port


def _with_revision(args: argparse.Namespace) -> str:
    """The model as `transformers serve` names it."""
    return args.model if args.revision == "main" or os.path.exists(args.model) else f"{args.model}@{args.revision}"


def _check(args: argparse.Namespace, config: PreTrainedConfig, keyword: dict[str, Any], results: Results) -> None:
    """Refuses what does not fit before the weights are read, and says what a picture takes."""
    name = _with_revision(args)
    answering = {name for table in _ANSWERING for name in getattr(modeling_auto, table, {}).values()}
    saved = config.architectures or ()
    if saved and not answering.intersection(saved):
        raise ValueError(
            f"{name} is a {saved[0]}, which answers nothing: `transformers serve` has chats, and transcribes sound. "
            "Use examples/embed_dataset.py for embeddings, and a pipeline for classes."
        )
    with torch.device("meta"):
        model = AutoModel.from_config(copy.deepcopy(config), **keyword)
    if config.model_type in SHORT_PROMPTS:
        processor = AutoProcessor.from_pretrained(args.model, revision=args.revision)
        merged = tokens_of_a_picture(processor, model)
        with pitome_disabled(model):
            dense = num_image_tokens(model, picture_size(processor))
        results.note(f"{name}: a picture takes {merged} tokens of the prompt, {dense} unmerged.")


@contextlib.contextmanager
def _loading_with(manager: Any) -> Iterator[None]:
    """`transformers serve` has no place to say how a model is loaded, so what loads it is another one meanwhile."""
    original = model_manager.ModelManager
    model_manager.ModelManager = manager
    try:
        yield
    finally:
        model_manager.ModelManager = original
