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

"""What [`pitome_summary`] returns, and how it prints."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from dataclasses import dataclass, field
from typing import Any

import numpy

from .plain import Plain


_ROW = "{:>5}  {:>13}  {:>9}  {:>9}  {:>9}  {}"
#: Of terminals, and of the bar that a layer without merging has.
LINE_WIDTH, _BAR = 100, 40
_WHOLE = {"drop_whitespace": True, "break_long_words": False, "break_on_hyphens": False}


def times_fewer(ratio: float) -> str:
    """How many times fewer operations, or more where the ratio is below 1: of short inputs, say."""
    return f"{ratio:.2f}x fewer" if ratio >= 1 else f"{1 / ratio:.2f}x more"


@dataclass(frozen=True)
class LayerSummary:
    """One layer. A multiply-add counts as one operation, as in the paper's tables.

    Attributes:
        index (`int`): position in the encoder.
        tokens_in, tokens_out (`int`): sequence length before and after the merge, special tokens included.
        gflops_dense, gflops_merged (`float`): 10**9 operations of the layer without and with merging.
        gflops_merge_step (`float`): 10**9 operations of matching and merging themselves.
        runs (`bool`): whether anything reads what the layer computes. The dense model runs it all the same; the
            rewritten one does not.
    """

    index: int
    tokens_in: int
    tokens_out: int
    gflops_dense: float
    gflops_merged: float
    gflops_merge_step: float
    runs: bool = True


@dataclass(frozen=True)
class EncoderSummary(Plain):
    """One rewritten encoder; the sums run over its layers (embeddings and heads are not in it) that run.

    Attributes:
        name (`str`): of the module.
        layers (`tuple[LayerSummary, ...]`): all of them.
        settings (`dict[str, Any]`):
            What the layers that merge really do: every field, defaults and presets resolved. A list where they differ.
        num_special (`int`): so many tokens of a sample, at most, are special: they never merge, and no ratio counts
            them.
        max_protected (`int`): so many tokens of a sample can be protected by `protect_token_ids` and never merge.
    """

    name: str
    layers: tuple[LayerSummary, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    num_special: int = 0
    max_protected: int = 0

    @property
    def tokens(self) -> list[int]:
        """Sequence length before every layer, and after the last."""
        return [layer.tokens_in for layer in self.layers] + [self.layers[-1].tokens_out]

    @property
    def gflops_dense(self) -> float:
        return sum(layer.gflops_dense for layer in self.layers if layer.runs)

    @property
    def gflops_merged(self) -> float:
        return sum(layer.gflops_merged for layer in self.layers)

    @property
    def gflops_merge_step(self) -> float:
        return sum(layer.gflops_merge_step for layer in self.layers)

    @property
    def gflops_skipped(self) -> float:
        """What the dense model spends on layers that nothing reads: saved, but not by merging."""
        return sum(layer.gflops_dense for layer in self.layers if not layer.runs)

    def to_dict(self) -> dict[str, Any]:
        """The fields, `tokens`, and the sums."""
        return {**super().to_dict(), "tokens": self.tokens, **_sums(self)}

    def __str__(self) -> str:
        lines = [_ROW.format("layer", "tokens", "dense", "merged", "merging", "tokens left")]
        for layer in self.layers:
            tokens = f"{layer.tokens_in} -> {layer.tokens_out}"
            merged = f"{layer.gflops_merged:.4g}" if layer.runs else "not run"
            numbers = (f"{layer.gflops_dense:.4g}", merged, f"{layer.gflops_merge_step:.4g}")
            bar = "#" * round(_BAR * layer.tokens_out / self.tokens[0])
            lines.append(_ROW.format(layer.index, tokens, *numbers, bar))
        tokens = f"{self.tokens[0]} -> {self.tokens[-1]}"
        numbers = (self.gflops_dense, self.gflops_merged, self.gflops_merge_step)
        left = f"{100 * self.tokens[-1] / self.tokens[0]:.0f} %"
        lines.append(_ROW.format("all", tokens, *(f"{number:.4g}" for number in numbers), left))
        settings = {name: value for name, value in self.settings.items() if name != "protect_token_ids"}
        if len(settings.get("layers", ())) == len(self.layers):
            settings["layers"] = "all"
        lines.append("settings: " + ", ".join(f"{name}={value}" for name, value in settings.items()))
        if self.num_special:
            lines.append(f"special tokens, which never merge: up to {self.num_special} in a sample")
        if ids := self.settings.get("protect_token_ids"):
            lines.append(f"protected token ids: {ids}; up to {self.max_protected} such tokens of a sample never merge")
        if self.gflops_skipped:
            layers = ", ".join(str(layer.index) for layer in self.layers if not layer.runs)
            lines.append(f"not run, since nothing reads it: layer {layers}; {self.gflops_skipped:.4g} GFLOPs less")
        return wrapped(lines)


@dataclass(frozen=True)
class ReaderSummary:
    """The language model that reads what leaves an encoder: one image and some text.

    Attributes:
        name (`str`): of the module.
        image_tokens_dense, image_tokens_merged (`int`): that the image takes in the prompt.
        text_tokens (`int`): the rest of the prompt.
        gflops_dense, gflops_merged (`float`): 10**9 operations of the prefill, and of the projector before it.
    """

    name: str
    image_tokens_dense: int
    image_tokens_merged: int
    text_tokens: int
    gflops_dense: float
    gflops_merged: float

    def __str__(self) -> str:
        return (
            f"image tokens: {self.image_tokens_dense} -> {self.image_tokens_merged}\n"
            f"{self.name}: prefill of an image and {self.text_tokens} tokens of text: {self.gflops_dense:.4g} -> "
            f"{self.gflops_merged:.4g} GFLOPs ({times_fewer(self.gflops_dense / self.gflops_merged)})"
        )


@dataclass(frozen=True)
class PiToMeSummary(Plain):
    """What merging saves in a model, for one sample. `print` shows the table.

    Attributes:
        encoders (`tuple[EncoderSummary, ...]`): every rewritten encoder. `gflops_dense`, `gflops_merged` and
            `flops_ratio` are of them, and of layers that run.
        count (`str`): `"exact"` or `"paper"`.
        reader ([`ReaderSummary`], *optional*): who reads merged tokens, where its prompt gets shorter.
    """

    encoders: tuple[EncoderSummary, ...]
    count: str = "exact"
    notes: tuple[str, ...] = field(default=())
    reader: ReaderSummary | None = None

    @property
    def layers(self) -> tuple[LayerSummary, ...]:
        """The layers of all encoders, in order."""
        return tuple(layer for encoder in self.encoders for layer in encoder.layers)

    @property
    def tokens(self) -> list[int]:
        """Sequence lengths through the first encoder (the only one of most models)."""
        return self.encoders[0].tokens

    @property
    def settings(self) -> dict[str, Any]:
        """What the first encoder really does: every field, defaults and presets resolved."""
        return self.encoders[0].settings

    @property
    def gflops_dense(self) -> float:
        return sum(encoder.gflops_dense for encoder in self.encoders)

    @property
    def gflops_merged(self) -> float:
        """Without the merge step."""
        return sum(encoder.gflops_merged for encoder in self.encoders)

    @property
    def gflops_merge_step(self) -> float:
        return sum(encoder.gflops_merge_step for encoder in self.encoders)

    @property
    def gflops_skipped(self) -> float:
        """Of layers that the rewritten model does not run, since nothing reads them."""
        return sum(encoder.gflops_skipped for encoder in self.encoders)

    @property
    def flops_ratio(self) -> float:
        """How many times fewer operations merging leaves in the encoders, the merge step included in the exact
        count."""
        return self.gflops_dense / (self.gflops_merged + self.gflops_merge_step)

    @property
    def gflops_whole_dense(self) -> float:
        """The encoders with every layer, and the language model that reads them."""
        return self.gflops_dense + self.gflops_skipped + (self.reader.gflops_dense if self.reader else 0.0)

    @property
    def gflops_whole_merged(self) -> float:
        """The same of the rewritten model, the merge step included."""
        merged = self.gflops_merged + self.gflops_merge_step
        return merged + (self.reader.gflops_merged if self.reader else 0.0)

    def to_dict(self) -> dict[str, Any]:
        """The fields, `flops_ratio`, and the sums."""
        return {**super().to_dict(), "flops_ratio": self.flops_ratio, **_sums(self)}

    def __str__(self) -> str:
        lines = []
        for encoder in self.encoders:
            counted = f"counted at {encoder.tokens[0]} tokens ({self.count} count, multiply-add = 1)"
            lines.append(f"{encoder.name}: GFLOPs per sample, {counted}")
            lines.append(str(encoder))
        lines.append(f"{times_fewer(self.flops_ratio)} operations than the dense model")
        if self.reader is not None:
            lines[-1] = f"{times_fewer(self.flops_ratio)} operations than the same layers of the dense tower"
            lines.append(str(self.reader))
            dense, merged = self.gflops_whole_dense, self.gflops_whole_merged
            lines.append(
                f"tower and language model: {dense:.4g} -> {merged:.4g} GFLOPs ({times_fewer(dense / merged)})"
            )
        lines.extend(f"Note: {note}" for note in self.notes)
        return wrapped(lines)


def whole_table(table: Any, **options: Any) -> str:
    """A `pandas.DataFrame` as text: in a terminal its columns go on below where the line ends, and so they do where
    the environment says how many `COLUMNS` there are. Anywhere else, in a file say, a row is a line and nothing is
    cut."""
    has_width = sys.stdout.isatty() or os.environ.get("COLUMNS")
    width = shutil.get_terminal_size((LINE_WIDTH, 0)).columns if has_width else None
    return table.to_string(line_width=width, **options)


def markdown_table(table: Any) -> list[str]:
    """The lines of a `pandas.DataFrame` of texts in Markdown, without its index."""
    lines = [f"| {' | '.join(cells)} |" for cells in (table.columns, *table.values.tolist())]
    return [lines[0], "|---" * len(table.columns) + "|", *lines[1:]]


def milliseconds(value: float) -> str:
    """Four digits, as a plain number."""
    return numpy.format_float_positional(value, precision=4, fractional=False, trim="-")


def wrapped(lines: list[str], indent: str = "  ") -> str:
    """As a terminal of 100 columns shows them."""
    lines, options = "\n".join(lines).splitlines(), {"subsequent_indent": indent, **_WHOLE}
    return "\n".join(part for line in lines for part in textwrap.wrap(line, LINE_WIDTH, **options))


def _sums(summary: EncoderSummary | PiToMeSummary) -> dict[str, float]:
    kinds = ("dense", "merged", "merge_step", "skipped")
    return {f"gflops_{kind}": getattr(summary, f"gflops_{kind}") for kind in kinds}
