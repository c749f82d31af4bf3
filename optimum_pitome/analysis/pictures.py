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

"""Plots as picture files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def figure_class() -> type:
    """matplotlib's `Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("A plot needs matplotlib, which is not installed: pip install matplotlib") from None
    return Figure


def check_plot(path: str | os.PathLike | None) -> None:
    """
    Args:
        path (*optional*): of a plot that is to be drawn later; `None` for none.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the file's name ends in no format of pictures.
    """
    if path is None:
        return
    accepted = sorted(figure_class()().canvas.get_supported_filetypes())
    if Path(path).suffix.removeprefix(".").lower() not in accepted:
        raise ValueError(f"{path}: name a plot with its format at the end, one of {', '.join(accepted)}.")


@contextlib.contextmanager
def plotted(
    path: str | os.PathLike, dpi: int, size: tuple[float, float] = (6.4, 4.2), panels: int | None = None
) -> Iterator[Any]:
    """The axes of an empty figure, which is written to `path` at the end of the block.

    Args:
        dpi (`int`): dots per inch.
        size (`tuple[float, float]`, *optional*): width and height in inches.
        panels (`int`, *optional*): so many axes, one below the other, come as a list.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the file's name ends in no format of pictures.
    """
    check_plot(path)
    figure = figure_class()(figsize=size, layout="constrained")
    yield figure.subplots() if panels is None else list(figure.subplots(panels, squeeze=False)[:, 0])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
