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

"""How every command runs: results on stdout, everything else on stderr, and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

import datasets
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from .. import __version__
from ..analysis.plain import as_json
from ..configuration.checks import NotReachedError
from .arguments import FAILED, INTERRUPTED, REFUSED, UNREAD, check_model, fail


#: What is wrong with a path that was named; libraries that find no model on the Hub give no number.
_WRONG_PATHS = (None, errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)

#: What transformers says of a model type that it does not know, and what it cannot know of here.
_UNKNOWN_MODEL = "does not recognize this architecture"
_OWN_MODEL = "\n\nIf the model type is your own, name the module that registers it: --import MODULE, or its .py file."


class Results:
    """Where a command puts what it finds. Nothing else writes to stdout.

    Args:
        command (`str`), model (`str`, *optional*): its name, and what it is about.
        as_json (`bool`): whether one JSON document is written at the end, in place of texts as they come.
        quiet (`bool`): whether notes are left out.
    """

    def __init__(self, command: str, model: str | None = None, as_json: bool = False, quiet: bool = False):
        self._as_json, self._quiet, self._stdout, self._stderr = as_json, quiet, sys.stdout, sys.stderr
        self._found: dict[str, Any] = {"command": command, "version": __version__}
        self._found |= {} if model is None else {"model": model}

    def add(self, text: Any = "", **found: Any) -> None:
        """Shows a result.

        Args:
            text: for people, in lines of their own. Empty: nothing.
            found: the same for `--json`. A list is added to what was found under its name before.
        """
        for name, value in found.items():
            before = self._found.get(name)
            self._found[name] = [*before, *value] if isinstance(before, list) else value
        if self._as_json:
            return
        with contextlib.redirect_stdout(self._stdout):  # tables fit the terminal that shows them
            text = str(text)
        if text:
            _write(self._stdout, text)

    def note(self, text: str) -> None:
        """Tells people something that is no result."""
        if not self._quiet:
            _write(self._stderr, text)

    def finish(self) -> None:
        if self._as_json:
            _write(self._stdout, as_json(self._found))


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except BrokenPipeError:  # who read it has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # Python flushes once more as it ends
        sys.exit(UNREAD)


def run_command(name: str, args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Runs the command that the module `name` holds; what goes wrong ends it with an exit code, which
    docs/command_line.md explains."""
    try:
        results = Results(name, getattr(args, "model", None), args.json, args.quiet)
        # Libraries print how far they are.
        with _silence() if args.quiet else contextlib.nullcontext():
            with contextlib.redirect_stdout(io.StringIO() if args.quiet else sys.stderr):
                if getattr(args, "model", None) is not None:
                    check_model(args.model)
                importlib.import_module(f"{__package__}.{name}").run(args, results)
        results.finish()
    except KeyboardInterrupt as error:
        parser.exit(INTERRUPTED, "\nInterrupted" + "".join(f": {reason}" for reason in error.args) + ".\n")
    except (ValueError, OSError, ImportError) as error:
        _close_bars()
        said = explained(error, getattr(args, "model", None))
        fail(parser, said, FAILED if _is_offline(error) or _has_begun(error) else REFUSED)


def explained(error: Exception, model: str | None) -> str:
    """What went wrong with a model, and what to do about it, where a library does not say that."""
    offline = _is_offline(error)
    unnamed = offline and not isinstance(error, ConnectionError) and model is not None and model not in str(error)
    about = f"{model}: " if unnamed else ""
    after = _OWN_MODEL if _UNKNOWN_MODEL in str(error) and _OWN_MODEL not in str(error) else ""
    # A sentence-transformers' folder may have none, and fail for another reason.
    about_config = model is not None and os.path.isdir(model) and "config.json" in str(error)
    if about_config and not os.path.exists(os.path.join(model, "config.json")):
        after += f"\n\nThe folder {model} holds no config.json: name one in which a model or a recipe was saved."
    if offline and model is not None and not os.path.exists(model):
        after += f"\n\nThere is no folder {model} here, either."
    broken = error.__context__
    if isinstance(error, OSError) and isinstance(broken, json.JSONDecodeError):  # transformers does not say where
        after += f" What is wrong there: {broken}."
    return f"{about}{error}{after}"


def _close_bars() -> None:
    """Ends the line of every bar that an error left open: what is said of the error stands in one of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def _is_offline(error: BaseException | None) -> bool:
    """Whether the Hub could not be asked, whatever a library made of that."""
    while error is not None:
        if isinstance(error, (ConnectionError, TimeoutError, LocalEntryNotFoundError, OfflineModeIsEnabled)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _has_begun(error: Exception) -> bool:
    """Whether an error says nothing against what was asked for: a disk is full, say."""
    if isinstance(error, OSError):
        return error.errno not in _WRONG_PATHS
    return isinstance(error, NotReachedError)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without bars and without notes, whichever library they are of; errors are still told."""
    level, had_bars = logging.root.manager.disable, transformers_logging.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()  # and those of the Hub
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if had_bars:
            transformers_logging.enable_progress_bar()
            datasets.enable_progress_bars()
