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

"""What each class can do while its tokens merge, found by running its tiny model. `python tests/capabilities.py` runs
all of them (`make capabilities`; most of an hour) and writes tests/capabilities.json, from which test_readme.py makes
columns of the table in docs/models.md. `python tests/capabilities.py ViTModel BertModel` runs some and keeps the rest.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm


sys.path.insert(0, str(Path(__file__).parent))

from zoo import Case, all_cases, outputs_of  # noqa: E402

from optimum_pitome import apply_pitome, export_pitome  # noqa: E402


FILE = Path(__file__).parent / "capabilities.json"
SETTINGS = {"ratio": 0.8, "layers": [0]}
TOLERANCE = 1e-4
logger = logging.getLogger(__name__)

#: What can be found of `lengths`, in the order in which a row of several classes says it.
LENGTHS = ALL_OR_FEWER, ALL, FEWER, NONE = "all or fewer", "all", "fewer", "none"
#: Of `compile` and `export`: it does; neither the model that merges does nor the dense one; only the dense one does.
YES, DENSE_NEITHER, NO = "yes", "dense neither", "no"
#: Of `export`: into files of `export_pitome`, whole, part by part, or the image encoder alone; or only by
#: `torch.export` itself, with fixed shapes.
WHOLE, PARTS, ENCODER, GRAPH = "file", "parts", "encoder", "graph"


def run(model, inputs) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return outputs_of(model(**inputs))


def alike(found: dict, expected: dict) -> bool:
    """Whether outputs have the same names, shapes and numbers."""
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in expected.items()}:
        return False
    return all(torch.allclose(found[name], expected[name], atol=TOLERANCE, rtol=TOLERANCE) for name in found)


def other(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Inputs of the same shapes with other values: the samples in the opposite order."""
    return {name: value.flip(0) for name, value in inputs.items()}


def inputs_of(case: Case) -> dict[str, torch.Tensor]:
    """Two samples. A slice of a tensor would have another layout than its flipped copy, and that another graph."""
    return {name: value.contiguous() for name, value in case.inputs(2).items()}


def lengths(case: Case) -> str:
    """Outputs with an entry for each token have `ALL` of the dense model's entries; `ALL_OR_FEWER`, if
    `unmerge=False` leaves those of the merged tokens; always `FEWER`; or there are `NONE` of them."""

    def shapes(settings):
        outputs = run(apply_pitome(case.build(), settings), case.inputs(2))
        return {name: value.shape for name, value in outputs.items()}

    dense = shapes(1.0)
    if shapes(SETTINGS) != dense:
        return FEWER
    try:
        short = shapes({**SETTINGS, "unmerge": False})
    except ValueError:  # it reads every token, and says so
        return ALL
    return ALL_OR_FEWER if short != dense else NONE


def compiles(model, case: Case) -> None:
    """Raises where `torch.compile` finds no single graph, needs a second one, or computes something else.

    The graph is what is tested, so the backend runs its operations one by one.
    """
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for inputs, settings in ((inputs_of(case), {}), (other(inputs_of(case)), {"error_on_recompile": True})):
        # The model first: a first forward that collects hidden states takes a lock (transformers), which no graph has.
        expected = run(model, inputs)
        with torch._dynamo.config.patch(**settings):
            found = run(compiled, inputs)
        assert alike(found, expected), "the graph computes something else"


def has_a_graph(model, case: Case) -> None:
    """Raises where `torch.export` fails, or its program computes something else, for other inputs, too."""
    config = model.config
    for part in (config, *(value for value in vars(config).values() if hasattr(value, "to_dict"))):
        if getattr(part, "use_cache", False):
            part.use_cache = False  # a cache among the outputs does not export
    inputs = inputs_of(case)
    with torch.no_grad():
        program = torch.export.export(model, (), inputs, strict=False).module()
    for inputs in (inputs, other(inputs)):
        assert alike(run(program, inputs), run(model, inputs)), "the program computes something else"


def files_of(model, case: Case) -> tuple[str, list[dict]]:
    """What `export_pitome` makes files of, if of anything, and its arguments for each."""
    reads = {"text" if "ids" in name else "image" for name in case.inputs(1) if name in ("input_ids", "pixel_values")}
    if "image" in reads and case.model_class.can_generate():
        return ENCODER, [{"model": model.get_encoder(modality="image")}]
    if len(reads) == 2:
        return PARTS, [{"model": model, "part": part} for part in ("vision", "text")]
    # Inputs say what size pictures have, as a processor would.
    return WHOLE, [{"model": model, "inputs": [inputs_of(case)] if case.inputs(1).keys() == {"pixel_values"} else ()}]


def exports(model, case: Case) -> str:
    """Raises where neither `export_pitome`, which compares other inputs, batch sizes and lengths, nor, for what it
    refuses, `torch.export` makes a program that computes what the model computes."""
    if case.id not in first_of_each_type():  # a file takes most of the time, and its encoder has one already
        has_a_graph(model, case)
        return GRAPH
    found, files = files_of(model, case)
    try:
        for arguments in files:
            with tempfile.TemporaryDirectory() as folder:
                export_pitome(output=Path(folder) / "exported", format="torch", **arguments)
    except Exception as error:
        logger.info("%s: no file: %s", case.id, said(error))
        has_a_graph(model, case)
        return GRAPH
    return found


@functools.cache
def first_of_each_type() -> set[str]:
    """The class that stands first in each row of the table."""
    return set({case.config().model_type: case.id for case in reversed(all_cases())}.values())


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def tried(check, case: Case, reasons: dict[str, str]) -> str:
    """What a check returns of the model that merges (`YES`: nothing); where it fails, whether the dense one does."""
    name = check.__name__
    try:
        return check(apply_pitome(case.build(), SETTINGS), case) or YES
    except Exception as error:
        reasons[name] = said(error)
    try:
        check(case.build(), case)
    except Exception as error:
        reasons[f"{name}, dense"] = said(error)
        return DENSE_NEITHER
    return NO


def smaller(case: Case) -> Case:
    """A model of texts with two layers, which show what four would: tracing takes its time."""
    config = case.config()
    if "input_ids" not in case.inputs(1) or not hasattr(config, "num_hidden_layers") or hasattr(config, "layer_types"):
        return case
    config.num_hidden_layers = 2
    return replace(case, config=lambda: copy.deepcopy(config))


def capabilities_of(case: Case) -> dict[str, str]:
    case, reasons = smaller(case), {}
    found = {
        "lengths": lengths(case),
        "compile": tried(compiles, case, reasons),
        "export": tried(exports, case, reasons),
    }
    for what, reason in reasons.items():
        logger.warning("%s: %s: %s", case.id, what, reason)
    return found


def main(names: list[str]) -> None:
    cases = [case for case in all_cases() if not names or case.id in names]
    cases.sort(key=lambda case: names.index(case.id) if names else 0)
    for case in tqdm(cases, disable=None):
        start = time.process_time()
        found = capabilities_of(case)
        logger.info("%s: %s in %.0f s", case.id, found, time.process_time() - start)
        # Read again each time, so that several processes can each run some of the classes.
        known = json.loads(FILE.read_text()) if FILE.exists() else {}
        FILE.write_text(json.dumps(dict(sorted({**known, case.id: found}.items())), indent=1) + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(sys.argv[1:])
