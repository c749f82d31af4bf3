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

"""The app: which patches or words merge, layer by layer, and what that changes. `python app.py` opens it.

    python app.py --vision-model facebook/dinov2-small --text-model sentence-transformers/all-MiniLM-L6-v2

Both may be folders. Without them, the packaged weights of this repository are used where they are installed, and
these two of the Hub elsewhere. `PITOME_VISION_MODEL`, `PITOME_TEXT_MODEL` and `PITOME_PICTURES` say the same.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from engine import DEFAULT, Engine, Shown
from PIL import Image

from optimum_pitome.methods import ALGORITHMS


logger = logging.getLogger(__name__)
HUB = {"vision": "facebook/dinov2-small", "text": "sentence-transformers/all-MiniLM-L6-v2"}
TEXT = (
    "The museum opens at nine on weekdays and at ten on Sundays. Visitors who come early can leave their coats and "
    "bags downstairs for free, and children under twelve pay nothing. Photographs are welcome in all rooms except the "
    "one with the drawings, which are sensitive to light. A guided tour starts every hour in front of the main stairs."
)
OTHERS = """Tickets for children cost nothing.
The gallery closes on Mondays.
It is forbidden to take pictures of the drawings.
A storm is expected in the north tonight.
The recipe asks for two eggs and a cup of flour.
Guides show groups around the building every hour.
The train to the coast leaves from platform four.
Shares fell after the central bank raised rates."""
#: Of pictures that the page shows.
_SHOWN = {"interactive": False, "buttons": ["fullscreen", "download"]}
#: So long the page keeps what somebody saw.
_SECONDS = 1800
#: A drawn text is as wide as its column; numbers stay on one line.
_CSS = """
#text-groups svg {max-width: 100%; height: auto}
[id$=-numbers] :is(td, th), [id$=-whole] :is(td, th) {white-space: nowrap; padding: .3em .6em}
"""
ERRORS = (ValueError, OSError, RuntimeError, TypeError, KeyError)


def build(engine: Engine, vision: list[str], text: list[str]) -> gr.Blocks:
    """The page. What a request found stays in the session of who asked (`gr.State`): nothing is shared."""
    with gr.Blocks(title="Which tokens merge?", analytics_enabled=False) as page:
        gr.Markdown(
            "# Which tokens merge?\nA transformer gets faster when tokens that say the same become one "
            "([optimum_pitome](https://arxiv.org/abs/2405.16148)). Choose how many times fewer operations the encoder "
            "may take, and look at every layer."
        )
        with gr.Tab("Picture"):
            _picture_tab(engine, vision)
        with gr.Tab("Text"):
            _text_tab(engine, text)
    return page


def _settings(models: list[str], kind: str) -> list[gr.components.Component]:
    """The inputs that both tabs have."""
    label = "Model: of this list, or an id of the Hub"
    name = gr.Dropdown(models, value=models[0], label=label, allow_custom_value=True, elem_id=f"{kind}-model")
    budget = gr.Slider(
        1.05,
        3.0,
        value=1.8,
        step=0.05,
        label="Times fewer operations, at the size that the model is made for",
        elem_id=f"{kind}-budget",
    )
    algorithm = gr.Dropdown([DEFAULT, *ALGORITHMS], value=DEFAULT, label="Algorithm", elem_id=f"{kind}-algorithm")
    return [name, budget, algorithm]


def _tables(kind: str) -> tuple[gr.Markdown, gr.Markdown]:
    """Places for the numbers of a layer and of the whole, side by side where there is room."""
    with gr.Row():
        with gr.Column(scale=2, min_width=220):
            of_layer = gr.Markdown(elem_id=f"{kind}-numbers")
        with gr.Column(scale=3, min_width=340):
            of_whole = gr.Markdown(elem_id=f"{kind}-whole")
    return of_layer, of_whole


def _picture_tab(engine: Engine, models: list[str]) -> None:
    state = gr.State(time_to_live=_SECONDS)
    with gr.Row():
        with gr.Column(scale=1):
            # Not gr.Image: what that cannot read ends in an error without a message.
            picture = gr.File(type="filepath", label="Picture", elem_id="picture", height=140)
            preview = gr.Image(label="Picture", height=220, elem_id="picture-preview", **_SHOWN)
            name, budget, algorithm = _settings(models, "picture")
            button = gr.Button("Merge", variant="primary", elem_id="picture-run")
        with gr.Column(scale=2):
            layer = gr.Slider(0, 1, value=0, step=1, label="Layer", interactive=False, elem_id="picture-layer")
            of_layer, of_whole = _tables("picture")
            said = gr.Markdown(elem_id="picture-said")
            drawn = gr.Image(show_label=False, format="png", elem_id="picture-groups", **_SHOWN)
            dense = gr.Gallery(label="Nearest to the dense embedding", columns=5, height=160, interactive=False)
            merged = gr.Gallery(label="Nearest to the merged embedding", columns=5, height=160, interactive=False)
            dense.elem_id, merged.elem_id = "picture-dense", "picture-merged"

    def run(path, name, budget, algorithm):
        shown = _asked(lambda: engine.show_picture(name, _opened(path), budget, algorithm))
        last = len(shown.sample.layers) - 1
        near = [
            [(engine.pictures[place], f"{score:.3f}") for place, score in found] if not shown.comparison.labels else []
            for found in (shown.comparison.dense, shown.comparison.merged)
        ]
        slider = gr.Slider(0, last, value=last, step=1, interactive=True)
        return shown, slider, shown.picture(last), shown.layer_table(last), shown.whole_table(), _said(shown), *near

    def move(shown: Shown | None, layer: float):
        return (gr.skip(), gr.skip()) if shown is None else (shown.picture(int(layer)), shown.layer_table(int(layer)))

    def look(path: str | None):
        return _asked(lambda: _opened(path))

    outputs = [state, layer, drawn, of_layer, of_whole, said, dense, merged]
    picture.change(look, picture, preview, api_name=False)
    button.click(run, [picture, name, budget, algorithm], outputs, concurrency_limit=4, api_name=False)
    layer.input(move, [state, layer], [drawn, of_layer], trigger_mode="always_last", api_name=False)


def _text_tab(engine: Engine, models: list[str]) -> None:
    state = gr.State(time_to_live=_SECONDS)
    with gr.Row():
        with gr.Column(scale=1):
            text = gr.Textbox(TEXT, lines=6, label="Text", elem_id="text")
            others = gr.Textbox(
                OTHERS, lines=6, label="Others to compare it with, one on a line", elem_id="text-others"
            )
            name, budget, algorithm = _settings(models, "text")
            button = gr.Button("Merge", variant="primary", elem_id="text-run")
        with gr.Column(scale=2):
            layer = gr.Slider(0, 1, value=0, step=1, label="Layer", interactive=False, elem_id="text-layer")
            drawn = gr.HTML(elem_id="text-groups")
            of_layer, of_whole = _tables("text")
            said = gr.Markdown(elem_id="text-said")

    def run(text, others, name, budget, algorithm):
        shown = _asked(lambda: engine.show_text(name, text, others, budget, algorithm))
        last = len(shown.sample.layers) - 1
        slider = gr.Slider(0, last, value=last, step=1, interactive=True)
        lines = [line for line in others.splitlines() if line.strip()]
        return shown, slider, shown.svg(last), shown.layer_table(last), shown.whole_table(), _said(shown, lines)

    def move(shown: Shown | None, layer: float):
        return (gr.skip(), gr.skip()) if shown is None else (shown.svg(int(layer)), shown.layer_table(int(layer)))

    outputs = [state, layer, drawn, of_layer, of_whole, said]
    button.click(run, [text, others, name, budget, algorithm], outputs, concurrency_limit=4, api_name=False)
    layer.input(move, [state, layer], [drawn, of_layer], trigger_mode="always_last", api_name=False)


def _asked(request: Callable[[], Any]) -> Any:
    """What `request` gives, or its error as a message on the page."""
    try:
        return request()
    except ERRORS as error:
        logger.info("refused: %s", error)
        raise gr.Error(str(error).strip().split("\n\n")[0][:500], duration=None) from None


def _opened(path: str | None) -> Image.Image | None:
    if path is None:
        return None
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"This picture cannot be read: {error}") from None


def _said(shown: Shown, others: list[str] | None = None) -> str:
    """What the model says, dense and merged, in Markdown."""
    found = shown.comparison
    lines = (
        [] if found.cosine is None else [f"Cosine of the merged embedding to the dense one: **{found.cosine:.4f}**\n"]
    )
    titles = found.labels or others
    if titles and found.dense:
        what = "class" if found.labels else "nearest"
        lines += [f"| | {what}, dense | {what}, merged |", "|---|---|---|"]
        for place, (one, two) in enumerate(zip(found.dense, found.merged), 1):
            cells = (f"{titles[number]} ({score:.3f})".replace("|", "/") for number, score in (one, two))
            lines.append(f"| {place} | {' | '.join(cells)} |")
    return "\n".join(lines)


def packaged() -> tuple[dict[str, str], list[Image.Image]]:
    """The packaged models of this repository, as name → folder, and its photos; nothing where they are missing."""
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    try:
        import real_assets
    except ImportError:  # the app lies by itself
        return {}, []
    folders, pictures = {}, []
    for name, find in (
        ("DINOv2-small (packaged)", real_assets.dinov2_small),
        ("MiniLM (packaged)", real_assets.minilm),
    ):
        try:
            folders[name] = str(find())
        except real_assets.MissingAssetError as error:
            logger.warning("%s The model of the Hub is offered.", error)
    with contextlib.suppress(real_assets.MissingAssetError):
        pictures = list(real_assets.imagenet_photos()["image"])
    return folders, pictures


def pictures_of(folder: str) -> list[Image.Image]:
    """The pictures of a folder, the first 64 by name, no larger than 512 pixels."""
    found = []
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() in Image.registered_extensions() and len(found) < 64:
            with Image.open(path) as picture:
                picture = picture.convert("RGB")
                picture.thumbnail((512, 512))
                found.append(picture)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Opens the app until it is stopped."""
    parser = argparse.ArgumentParser(description="Which tokens of a picture or a text merge, layer by layer.")
    env = os.environ.get
    parser.add_argument("--vision-model", default=env("PITOME_VISION_MODEL"), help="A folder, or an id of the Hub.")
    parser.add_argument("--text-model", default=env("PITOME_TEXT_MODEL"), help="The same, for texts.")
    parser.add_argument(
        "--pictures", default=env("PITOME_PICTURES"), help="A folder in which neighbours are looked for."
    )
    parser.add_argument("--host", default=env("GRADIO_SERVER_NAME", "127.0.0.1"), help="Where it listens (127.0.0.1).")
    parser.add_argument("--port", type=int, help="Default: the first free one from 7860 on.")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO)
    folders, pictures = ({}, []) if args.vision_model and args.text_model and args.pictures else packaged()
    vision = [name for name in folders if name.startswith("DINOv2")] + [HUB["vision"]]
    text = [name for name in folders if name.startswith("MiniLM")] + [HUB["text"]]
    for place, names in ((args.vision_model, vision), (args.text_model, text)):
        if place:
            names.insert(0, place)
            if Path(place).is_dir():
                folders[place] = place
    pictures = pictures_of(args.pictures) if args.pictures else pictures
    page = build(Engine(folders, pictures), vision, text)
    # Fonts of the system, and nothing that the page would fetch from elsewhere.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    page.queue(max_size=32).launch(
        server_name=args.host, server_port=args.port, theme=theme, css=_CSS, max_file_size="20mb"
    )


if __name__ == "__main__":
    main()
