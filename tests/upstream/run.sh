#!/usr/bin/env bash
# Runs transformers' own tests of models on models that merge, and writes what came of it to outputs/upstream.md.
#
#   bash tests/upstream/run.sh <python of the tested set> <folder for the environment> [checkout of transformers]
#
# Without a checkout, pip brings the source distribution of the installed version, whose shared suites run over our tiny
# models. MODELS="vit bert" takes these folders of tests/models only, SETTINGS="1 0.9" are the settings, and ARGS goes to
# pytest.
set -euo pipefail
tested=$1 folder=$2 checkout=${3:-}
root=$(pwd)
export PYTHONPATH="$root:$root/tests" OMP_NUM_THREADS=1 HF_HUB_OFFLINE="${HF_HUB_OFFLINE-1}"
if [ ! -e "$folder/installed" ]; then
	"$tested" -m venv --clear "$folder"
	packages() { "$1" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])'; }
	packages "$tested" > "$(packages "$folder/bin/python")/tested.pth"
	"$folder/bin/python" -m pip install -q parameterized==0.9.0 pytest-timeout==2.4.0
	touch "$folder/installed"
fi
python="$root/$folder/bin/python"
if [ -z "$checkout" ]; then
	version=$("$python" -c 'import importlib.metadata as m; print(m.version("transformers"))')
	archive="build/upstream/transformers-$version.tar.gz"
	[ -e "$archive" ] || "$python" -m pip download -q --no-deps --no-binary transformers -d build/upstream "transformers==$version"
	checkout="build/upstream/transformers-$version"
	"$python" -m upstream.source "$archive" "$checkout"
fi
cd "$checkout"
shopt -s nullglob
files=()
for model in ${MODELS:-$("$python" -m upstream.suites)}; do
	files+=(tests/models/"$model"/test_modeling_*.py)
done
# With "=": pytest looks for its settings before it knows the options of a plugin, and takes their values for paths.
settings=()
for setting in ${SETTINGS:-1 0.9}; do
	settings+=("--pitome=$setting")
done
"$python" -m pytest -p upstream.plugin -p no:cacheprovider --timeout 300 -q --tb=short "${settings[@]}" \
	"--pitome-table=$root/outputs/upstream.md" ${ARGS:-} "${files[@]}"
