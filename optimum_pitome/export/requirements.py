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

"""What can be asked for, and which packages it takes. Imports nothing heavy."""

from __future__ import annotations

import importlib.util


FORMATS = ("onnx", "openvino", "torch")
QUANTIZATIONS = ("int8",)
PARTS = ("vision", "text")

#: Opsets that the ONNX exporter writes and ONNX Runtime reads. From 23 on attention is one operator, which in
#: ONNX Runtime 1.31 refuses a bias per key.
OPSETS = range(18, 23)

#: Format, and quantisation in it: the packages, and the extra that brings them.
_PACKAGES = {
    ("onnx", None): (("onnx", "onnxscript", "onnxruntime"), "onnx"),
    ("onnx", "int8"): (("onnx", "onnxscript", "onnxruntime"), "onnx"),
    ("openvino", None): (("openvino", "onnx", "onnxscript"), "openvino"),
    ("openvino", "int8"): (("openvino", "nncf", "onnx", "onnxscript"), "openvino"),
    ("torch", None): ((), ""),
    ("torch", "int8"): (("torchao",), "int8"),
}


def check_request(format: str, quantize: str | None = None, opset: int | None = None, part: str | None = None) -> None:
    """Refuses what no export can do, before a model is read.

    Raises:
        ValueError: for an unknown format, quantisation or part, or an opset out of range.
        ImportError: if a package is missing; the message names the extra that brings it.
    """
    for name, value, accepted in (("format", format, FORMATS), ("part", part, (None, *PARTS))):
        if value not in accepted:
            names = ", ".join(repr(one) for one in accepted if one is not None)
            raise ValueError(f"{name}={value!r} is not known. Accepted: {names}.")
    if quantize is not None and quantize not in QUANTIZATIONS:
        raise ValueError(
            f"quantize={quantize!r} is not known. Accepted: 'int8', or nothing for the model's own dtype."
        )
    if opset is not None and format != "onnx":
        raise ValueError(f"opset={opset} is for format='onnx'; format={format!r} has no opsets. Leave it out.")
    if opset is not None and opset not in OPSETS:
        raise ValueError(f"opset={opset} is out of range. Accepted: {OPSETS.start} to {OPSETS.stop - 1}.")
    packages, extra = _PACKAGES[format, quantize]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        what = f"format={format!r}" + (f" with quantize={quantize!r}" if quantize else "")
        raise ImportError(f'{what} needs {", ".join(missing)}: pip install "optimum_pitome[{extra}]"')
