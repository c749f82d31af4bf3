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

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub.server import Hub

import optimum_pitome


_IS_OF_THE_HUB = re.compile(r"(HF|HUGGING_?FACE|TRANSFORMERS)_|DISABLE_TELEMETRY$|.*_proxy$", re.IGNORECASE)


@pytest.fixture(scope="module")
def hub():
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    """Runs a script of `clients/` in a new process with an empty cache; returns what it printed last."""

    def run(script, *args, token="hf_me"):
        tests = Path(__file__).parents[1]
        home = str(tmp_path_factory.mktemp("home"))
        # What whoever runs the tests has set for the Hub and for the network is not for these clients.
        inherited = {name: value for name, value in os.environ.items() if not _IS_OF_THE_HUB.match(name)}
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": home, "HF_TOKEN": token}
        settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        # The package that is tested here, which may not be the installed one.
        paths = [str(tests), str(Path(optimum_pitome.__file__).parents[1])]
        settings |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, str(tests / "hub" / "clients" / script), *map(str, args)],
            env={name: value for name, value in {**inherited, **settings}.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
