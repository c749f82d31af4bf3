#!/usr/bin/env bash
# Makes a virtual environment with the newest transformers, accelerate and huggingface_hub on PyPI over the packages of
# another one. The file `differs` in it says that any of them is newer than there.
#
#   bash tests/newest.sh <python of the tested set> <folder>
set -euo pipefail
tested=$1 folder=$2
newest=(transformers accelerate huggingface_hub)
"$tested" -m venv --clear "$folder"
packages() { "$1" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])'; }
packages "$tested" > "$(packages "$folder/bin/python")/tested.pth"
# What these three bring along may be newer, too; torch stays, whose newest build is not for this machine.
grep -vE '^(transformers|accelerate|huggingface_hub|hf-xet|tokenizers|safetensors)==' constraints.txt > "$folder/constraints.txt"
"$folder/bin/python" -m pip install -q --upgrade -c "$folder/constraints.txt" "${newest[@]}"
versions() { "$1" -c 'import importlib.metadata as m, sys; print(*(f"{n}=={m.version(n)}" for n in sys.argv[1:]))' "${newest[@]}"; }
echo "tested: $(versions "$tested"); newest: $(versions "$folder/bin/python")"
[ "$(versions "$tested")" = "$(versions "$folder/bin/python")" ] || touch "$folder/differs"
