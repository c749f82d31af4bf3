#!/usr/bin/env bash
# Makes a virtual environment with timm, over the packages of another one.
#
#   bash tests/with_timm.sh <python of the tested set> <folder>
set -euo pipefail
tested=$1 folder=$2
timm=timm==1.0.31 torchvision=torchvision==0.28.0
[ -e "$folder/$timm" ] && exit
"$tested" -m venv --clear "$folder"
packages() { "$1" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])'; }
packages "$tested" > "$(packages "$folder/bin/python")/tested.pth"
"$folder/bin/python" -m pip install -q --no-deps "$timm" "$torchvision"
"$folder/bin/python" -m pip install -q --no-deps -e .
# The torchvision that pip finds may be one for another PyTorch, whose C++ half does not load. timm needs the Python half
# alone, which asks for two operators of the other.
if ! "$folder/bin/python" -c 'import torchvision' 2> /dev/null; then
	cat >> "$(packages "$folder/bin/python")/torchvision/extension.py" <<-'EOF'

		_operators = torch.library.Library("torchvision", "DEF")
		_operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
		_operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
	EOF
	"$folder/bin/python" -c 'import torchvision'
fi
touch "$folder/$timm"
