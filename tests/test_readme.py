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

"""Documentation, registry and tested classes say the same. `python tests/test_readme.py` writes the lists anew:
the table in docs/models.md, and the model types in the README."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import torch
import transformers


sys.path.insert(0, str(Path(__file__).parent))

import capabilities  # noqa: E402
from zoo import all_cases, every_case  # noqa: E402

from optimum_pitome import apply_pitome  # noqa: E402
from optimum_pitome.families.table import FAMILIES  # noqa: E402
from optimum_pitome.modeling import registry  # noqa: E402
from optimum_pitome.modeling.rewrite import rewritten_encoders  # noqa: E402


ROOT = Path(__file__).parent.parent
README, MODELS = ROOT / "README.md", ROOT / "docs" / "models.md"
HEAD = (
    "| model type | reads | classes | merges (with a ratio; with a budget every layer) "
    "| tokens | compiles | exports |\n"
    "|---|---|---|---|---|---|---|\n"
)
FIRST = "| image | "
#: The README names so many characters of model types of a kind, those that people know first.
MOST = 100
KNOWN = (
    "vit deit dinov2 dinov3_vit clip_vision_model siglip_vision_model vit_mae dpt depth_anything yolos "
    "whisper wav2vec2 hubert bert roberta modernbert distilbert mpnet xlm-roberta nomic_bert electra "
    "videomae vivit vjepa2 clip siglip siglip2 llava qwen2_5_vl qwen3_vl llava_next llava_onevision blip-2 paligemma "
    "gemma3 colpali"
).split()
#: The argument of a model → what it reads.
_READS = {
    "pixel_values": "image",
    "pixel_values_images": "image",
    "grid_thw": "image",
    "pixel_values_videos": "video",
    "input_values": "audio",
    "input_features": "audio",
    "input_ids": "text",
    "decoder_input_ids": "text",
}


def what_it_reads(case) -> set[str]:
    inputs = case.inputs(1)
    found = {_READS[name] for name in inputs if name in _READS}
    if "num_frames" in case.config().to_dict():
        found = {"video" if kind == "image" else kind for kind in found}
    return found


def what_merges(case) -> str:
    model = apply_pitome(case.build(), 0.8)
    words = []
    for encoder in rewritten_encoders(model):
        layers = encoder.pitome.architecture.defaults.get("layers")
        where = "every layer" if layers is None else f"the first {len(layers)} layers"
        words.append(f"{encoder.pitome.architecture.part}: {where}")
    return ", ".join(dict.fromkeys(words))


def rows() -> dict[str, dict]:
    found: dict[str, dict] = {}
    known = json.loads(capabilities.FILE.read_text())
    for case in all_cases():
        empty = {"classes": {}, "reads": set(), "lengths": {}, "compile": {}, "export": {}}
        row = found.setdefault(case.config().model_type, empty)
        if "merges" not in row:
            row["merges"] = what_merges(case)
        row["reads"] |= what_it_reads(case)
        name = case.model_class.__name__
        row["classes"][name] = case.reads_every_token
        for what, value in known[case.id].items():
            row[what].setdefault(name, value)  # variants of a class come after it
    return dict(sorted(found.items()))


def tokens_cell(lengths: dict[str, str]) -> str:
    """What outputs of the classes of a row with an entry for each token have: the stars say for which class."""
    return min(set(lengths.values()), key=capabilities.LENGTHS.index)


def cell(values: dict[str, str]) -> str:
    """What holds for the first class of a row, then others by their names, if something works in one and not in the
    other. (A file is made of the first alone.)"""
    first, *_ = values.values()
    others = [f"`{name}`: {_word(value)}" for name, value in values.items() if works(value) != works(first)]
    return "; ".join([_word(first), *others])


def works(value: str) -> bool:
    return value not in (capabilities.DENSE_NEITHER, capabilities.NO)


def _word(value: str) -> str:
    return "no, dense neither" if value == capabilities.DENSE_NEITHER else value


def table(rows: dict[str, dict]) -> str:
    lines = []
    for model_type, row in rows.items():
        classes = ", ".join(f"`{name}`{'*' if whole else ''}" for name, whole in row["classes"].items())
        found = tokens_cell(row["lengths"]), cell(row["compile"]), cell(row["export"])
        cells = (f"`{model_type}`", ", ".join(sorted(row["reads"])), classes, row["merges"], *found)
        lines.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(lines)


def short_list(found: dict[str, dict]) -> str:
    """Rows with the best-known model types by what they read, `image` first, and how many there are."""
    kinds: dict[str, list[str]] = {}
    for model_type, row in found.items():
        kinds.setdefault(" and ".join(sorted(row["reads"])), []).append(model_type)
    lines = []
    for kind in sorted(kinds, key=lambda kind: (kind != "image", kind.count(" and "), kind)):
        names = sorted(kinds[kind], key=lambda name: KNOWN.index(name) if name in KNOWN else len(KNOWN))
        shown = [name for index, name in enumerate(names) if len(" ".join(names[: index + 1])) <= MOST]
        more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
        lines.append(f"| {kind} | {', '.join(f'`{name}`' for name in shown)}{more} |")
    return "\n".join(lines) + "\n"


def replaced(text: str, first: str, new: str) -> str:
    """`text` with `new` in place of the paragraph that begins with `first`."""
    start = text.index(first)
    return text[:start] + new + text[text.index("\n\n", start) + 1 :]


def test_the_documentation_lists_what_is_tested():
    if len(all_cases()) < len(every_case()):  # an older transformers: the lists may have more
        text = MODELS.read_text()
        assert all(f"`{case.model_class.__name__}`" in text for case in every_case())
        return
    found, say = rows(), "run: python tests/test_readme.py"
    assert replaced(MODELS.read_text(), HEAD, table(found)) == MODELS.read_text(), say
    assert replaced(README.read_text(), FIRST, short_list(found)) == README.read_text(), say


def test_every_registered_architecture_has_a_tiny_model():
    for family in set(FAMILIES.values()):
        importlib.import_module(family)
    built_in = {
        architecture.encoder_class
        for architecture in registry._ARCHITECTURES.values()
        if architecture.layer_class.__module__.startswith("optimum_pitome.families")
    }
    with torch.device("meta"):
        cases = {case.config: case for case in every_case()}.values()
        tested = {type(module) for case in cases for module in case.build().modules()}
    assert built_in <= tested


def test_every_family_module_exists():
    for module in FAMILIES:
        importlib.import_module(module)
    assert transformers.__version__


if __name__ == "__main__":
    listed = rows()
    MODELS.write_text(replaced(MODELS.read_text(), HEAD, table(listed)))
    README.write_text(replaced(README.read_text(), FIRST, short_list(listed)))
