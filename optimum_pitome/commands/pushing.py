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

"""`--push-to-hub`: what a command wrote, in a repository of the Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig

from ..cards.card import EXPORTS, with_exports
from ..configuration.checks import NotReachedError
from ..export.files import MANIFEST
from .results import Results


def check_push(args: argparse.Namespace) -> None:
    """Asks the Hub who is pushing, before anything is done that takes long.

    Raises:
        ValueError: for a name that no repository can have, for `--private` alone, or if nobody is logged in.
    """
    if args.push_to_hub is None:
        if args.private:
            raise ValueError("--private is for a repository: name one with --push-to-hub.")
        return
    validate_repo_id(args.push_to_hub)
    try:
        HfApi().whoami()
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"--push-to-hub {args.push_to_hub}: nobody is logged in (hf auth login): {reason}") from error


def check_recipe_repository(name: str) -> None:
    """
    Raises:
        ValueError: if something else than a recipe lies there: its config.json would be written over.
    """
    try:
        settings = PreTrainedConfig.get_config_dict(name)[0]
    except OSError:  # there is nothing yet
        return
    if settings.get("model_type") != "pitome":
        raise ValueError(
            f"--push-to-hub {name}: a model lies there, whose config.json a recipe would replace. Name another "
            "repository."
        )


def push(args: argparse.Namespace, folder: str | Path, results: Results, message: str, format: str = "") -> None:
    """Uploads a folder, but for what a search wrote down. A repository with something else keeps that: an export then
    goes into a folder of its own there.

    Args:
        format (`str`, *optional*): of an export.

    Raises:
        NotReachedError: if it cannot be uploaded; the message says where it lies.
    """
    api, name = HfApi(), args.push_to_hub
    try:
        api.create_repo(name, private=args.private, exist_ok=True)
        there = api.list_repo_files(name) if format else []
        place = f"{EXPORTS}/{format}" if "config.json" in there and MANIFEST not in there else None
        about = {"path_in_repo": place, "commit_message": message, "ignore_patterns": ["search.jsonl"]}
        sent = api.upload_folder(repo_id=name, folder_path=folder, **about)
        if place is not None and "README.md" in there:
            _list_exports(api, name)
    except Exception as error:
        raise NotReachedError(
            f"{folder} is whole, but was not uploaded to {name}: {error}\nTo try again: hf upload {name} {folder}"
        ) from error
    where = name if place is None else f"{name}, into {place}"
    results.add(f"Uploaded to {where}: {sent.commit_url}", uploaded=sent.commit_url)


def _list_exports(api: HfApi, name: str) -> None:
    """Says in the card of a repository which exports lie beside what it holds."""
    places = [Path(file) for file in api.list_repo_files(name)]
    formats = [place.parts[1] for place in places if place.parts[:1] == (EXPORTS,) and place.name == MANIFEST]
    old = Path(api.hf_hub_download(name, "README.md")).read_bytes()
    new = with_exports(old.decode("utf-8", "surrogateescape"), sorted(formats), name)
    if (content := new.encode("utf-8", "surrogateescape")) != old:
        api.upload_file(
            path_or_fileobj=content,
            path_in_repo="README.md",
            repo_id=name,
            commit_message="The card lists the exports",
        )
