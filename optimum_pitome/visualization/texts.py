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

"""[`TextGroups`]: one text, and what merged of it, in colours as HTML and SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .drawing import colour_of
from .groups import LayerGroups
from .samples import SampleGroups
from .watching import EncoderRun


_STYLE = (
    "body{font:16px/1.9 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#1e1e1e}"
    "body{background:#fff}h3{font-size:1em;margin:1.2em 0 .2em}"
    ".t{padding:.1em .3em;margin:.1em;border-radius:.3em;border:1px solid #ddd}"
    ".p{border-bottom:3px solid #1e1e1e}.d{text-decoration:line-through;opacity:.5}sub{font-size:.65em}"
)
_NOTE = "Tokens of one colour and number are one group. A line below: protected in this layer. Struck out: dropped."
#: Pixels, in pictures of texts.
_CHARACTER, _LINE, _WIDTH, _MARGIN = 8.5, 30, 960, 12


def read_tokens(run: EncoderRun, processor: Any = None) -> list[list[str]]:
    """The text of every token of every sample; its number where there is no tokenizer."""
    num_samples, num_tokens = len(run.samples), len(run.samples[0][0].groups)
    ids = run.inputs.get("input_ids")
    if ids is None or ids.shape != (num_samples, num_tokens):  # the model was given embeddings
        return [[str(place) for place in range(num_tokens)]] * num_samples
    tokenizer = getattr(processor, "tokenizer", processor)
    if not hasattr(tokenizer, "decode"):
        return [[str(one) for one in sample] for sample in ids.tolist()]
    return [[_printed(tokenizer.decode([one])) for one in sample] for sample in ids.tolist()]


def _printed(text: str) -> str:
    """`text` without what no page and no picture may hold, whatever a tokenizer has in its vocabulary."""
    return "".join(letter if letter.isprintable() else "·" for letter in text.strip()) or "␣"


@dataclass(frozen=True)
class TextGroups(SampleGroups):
    """One text, and what merged of it.

    Attributes:
        layers (`tuple[LayerGroups, ...]`): all layers of the encoder, as arrays.
        tokens (`list[str]`): the text of each token, padding included.
    """

    tokens: list[str]

    def html(self, layers: Sequence[int] | None = None) -> str:
        """The text after some layers, with its groups in colours: a part of a page. See [`page`].

        Args:
            layers (`Sequence[int]`, *optional*): see [`~SampleGroups.chosen`].
        """
        return "".join(
            f"<h3>{_title(layer)}</h3>\n<p>{' '.join(map(_span, self._marked(layer)))}</p>\n"
            for layer in self.chosen(layers)
        )

    def svg(self, layers: Sequence[int] | None = None) -> str:
        """The same as a picture: a whole file."""
        return svg([self], layers)

    def summary(self) -> dict[str, Any]:
        return {"texts": self.tokens, **super().summary()}

    def _marked(self, layer: LayerGroups) -> list[_Token]:
        numbers: dict[int, int] = {}
        found = []
        for place in np.flatnonzero(layer.groups >= 0):
            number = None
            if layer.members[place] > 1 and not layer.dropped[place]:
                number = numbers.setdefault(int(layer.groups[place]), len(numbers) + 1)
            score = None if layer.energy is None or math.isnan(layer.energy[place]) else float(layer.energy[place])
            # The first token of a group gives it its colour, in every layer.
            first = int(np.flatnonzero(layer.groups == layer.groups[place])[0])
            state = (bool(layer.protected[place]), bool(layer.dropped[place]))
            found.append(_Token(self.tokens[place], number, first, score, *state))
        return found


@dataclass(frozen=True)
class _Token:
    """How one token is drawn: `number` of its group where that has several, `first` token of it, energy."""

    text: str
    number: int | None
    first: int
    score: float | None
    protected: bool
    dropped: bool

    @property
    def colour(self) -> str:
        """Pale, so that black letters can be read on it."""
        if self.number is None:
            return "#ffffff"
        return "#{:02x}{:02x}{:02x}".format(*(round(255 - 0.5 * (255 - one)) for one in colour_of(self.first)))

    @property
    def width(self) -> float:
        letters = sum(2 if ord(letter) > 0x2E80 else 1 for letter in self.text)
        return _CHARACTER * letters + 10 + (0 if self.number is None else 6 * len(str(self.number)) + 2)


def _span(token: _Token) -> str:
    classes = "t" + " p" * token.protected + " d" * token.dropped
    number = "" if token.number is None else f"<sub>{token.number}</sub>"
    title = "" if token.score is None else f' title="energy {token.score:.4g}"'
    text = html.escape(token.text)
    return f'<span class="{classes}" style="background:{token.colour}"{title}>{text}{number}</span>'


def _title(layer: LayerGroups) -> str:
    return f"layer {layer.index}: {layer.num_tokens} tokens"


def page(texts: Sequence[TextGroups], layers: Sequence[int] | None = None) -> str:
    """A page of HTML that needs nothing beside it, with one section for each text."""
    sections = "".join(f"<h2>text {number}</h2>\n{text.html(layers)}" for number, text in enumerate(texts, 1))
    head = f'<meta charset="utf-8"><title>groups of tokens</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n<p>{_NOTE}</p>\n{sections}</body></html>\n'


def svg(texts: Sequence[TextGroups], layers: Sequence[int] | None = None) -> str:
    """The same as one picture, with a row of text for each line of tokens."""
    parts, y = [_text(_MARGIN, 20, _NOTE, 12)], 36.0
    for number, text in enumerate(texts, 1):
        for layer in text.chosen(layers):
            y += 24
            parts.append(_text(_MARGIN, y, f"text {number}, {_title(layer)}", 13, "bold"))
            x, y = float(_MARGIN), y + 8
            for token in text._marked(layer):
                if x > _MARGIN and x + token.width > _WIDTH - _MARGIN:
                    x, y = float(_MARGIN), y + _LINE
                parts.append(_box(x, y, token))
                x += token.width + 4
            y += _LINE
    size = f'width="{_WIDTH}" height="{y + _MARGIN:g}" viewBox="0 0 {_WIDTH} {y + _MARGIN:g}"'
    back = f'<rect width="{_WIDTH}" height="{y + _MARGIN:g}" fill="#ffffff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{back}\n' + "\n".join(parts) + "\n</svg>\n"


def _box(x: float, y: float, token: _Token) -> str:
    box = f'<rect x="{x:g}" y="{y:g}" width="{token.width:g}" height="22" rx="4" fill="{token.colour}" stroke="#ddd"/>'
    words = _text(x + 5, y + 16, token.text, 14, decoration="line-through" if token.dropped else "none")
    if token.number is not None:
        words += _text(x + token.width - 6 * len(str(token.number)) - 3, y + 19, str(token.number), 9)
    if token.protected:
        words += f'<rect x="{x:g}" y="{y + 21:g}" width="{token.width:g}" height="3" fill="#1e1e1e"/>'
    return box + words


def _text(x: float, y: float, text: str, size: int, weight: str = "normal", decoration: str = "none") -> str:
    style = f'font-family="monospace" font-size="{size}" font-weight="{weight}" text-decoration="{decoration}"'
    return f'<text x="{x:g}" y="{y:g}" fill="#1e1e1e" {style}>{html.escape(text)}</text>'
