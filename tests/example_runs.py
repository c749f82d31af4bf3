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

"""What the tests of the example scripts share: starting one as a user does, here or on two processes."""

import json
import subprocess
import sys


def run_here(monkeypatch, script, *arguments):
    """Runs the `main` of the module `script`."""
    monkeypatch.setattr(sys, "argv", [script.__file__, *map(str, arguments)])
    script.main()


def results(folder):
    """The evaluations of `results.json`, one for each of the settings."""
    return json.loads((folder / "results.json").read_text())["evaluations"]


def assert_two_processes_give_the_numbers_of_one(monkeypatch, script, arguments, folder):
    """Runs `script` with `arguments` and an output folder below `folder`."""
    run_here(monkeypatch, script, *arguments, "--output-dir", folder / "one")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command = [*launch, "--main_process_port", "0", script.__file__, *arguments, "--output-dir", folder / "two"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("2 process(es)") == 1  # only the main process reports
    for one, two in zip(results(folder / "one"), results(folder / "two"), strict=True):
        assert one.pop("timing")["rounds"] == two.pop("timing")["rounds"]
        assert {**one, "hardware": ""} == {**two, "hardware": ""}
