#!/usr/bin/env bash
# Makes a virtual environment with vLLM for CPUs, which needs an older transformers than this package is developed with.
#
#   bash tests/vllm_environment.sh <python> <folder>
set -euo pipefail
python=$1 folder=$2
"$python" -m venv --clear "$folder"
"$folder/bin/python" -m pip install -q --no-deps -r constraints-vllm.txt
"$folder/bin/python" -m pip install -q --no-deps -e .
# The torchvision that pip finds may be one for another PyTorch, whose C++ half does not load. vLLM needs the Python half
# alone, which asks for two operators of the other.
if ! "$folder/bin/python" -c 'import torchvision' 2> /dev/null; then
	packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
	cat >> "$packages/torchvision/extension.py" <<-'EOF'

		_operators = torch.library.Library("torchvision", "DEF")
		_operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
		_operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
	EOF
	"$folder/bin/python" -c 'import torchvision'
fi
