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

"""Tensors that numpy cannot read where they are: here, such as say so, since not every machine has an accelerator."""

import pytest
import torch

from optimum_pitome.export import comparison
from optimum_pitome.export.formats import WRITERS
from optimum_pitome.export.modules import ExportedModule


class OnAccelerator(torch.Tensor):
    """Refuses numpy, and operations with tensors of the CPU."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        if function is torch.Tensor.numpy or any(type(one) is torch.Tensor and one.dim() for one in args):
            raise TypeError("on the accelerator")
        return super().__torch_function__(function, types, args, kwargs or {})


VALUES = torch.arange(6.0).view(2, 3)


@pytest.fixture
def identity(tmp_path):
    onnx = pytest.importorskip("onnx", reason="files are made with it")
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "identity", ports[:1], ports[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(("format", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_runtimes_take_inputs_from_anywhere(identity, format, package):
    pytest.importorskip(package, reason="runtimes are extras")
    with pytest.raises(TypeError):
        VALUES.as_subclass(OnAccelerator).numpy()
    found = WRITERS[format].load(identity)({"x": VALUES.as_subclass(OnAccelerator)})
    torch.testing.assert_close(found, {"y": VALUES})


def test_outputs_are_compared_on_the_cpu():
    module = ExportedModule(torch.nn.Identity(), "image", lambda model, inputs: {"y": inputs["x"]})
    batch = {"x": VALUES.as_subclass(OnAccelerator)}
    for found in ({"y": VALUES}, {"y": VALUES.as_subclass(OnAccelerator)}):
        assert comparison.compare(module, lambda inputs, found=found: found, [batch]).difference == 0.0
