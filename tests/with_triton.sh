#!/usr/bin/env bash
# Makes a virtual environment with the Triton that the tested PyTorch names, over the packages of another one.
#
#   bash tests/with_triton.sh <python of the tested set> <folder>
set -euo pipefail
tested=$1 folder=$2
# The builds of PyTorch 2.13 for CPUs name none; those for CUDA require this one.
triton=triton==3.7.1
[ -e "$folder/$triton" ] && exit
"$tested" -m venv --clear "$folder"
packages() { "$1" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])'; }
packages "$tested" > "$(packages "$folder/bin/python")/tested.pth"
"$folder/bin/python" -m pip install -q --no-deps "$triton"
"$folder/bin/python" -m pip install -q --no-deps -e .   # for the programs that tests start
touch "$folder/$triton"
