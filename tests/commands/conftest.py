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

import sys

import pytest
from optimum.commands.optimum_cli import main


@pytest.fixture
def optimum_cli(monkeypatch, capsys):
    """Runs a command line in this process; returns what it wrote."""

    def run(*args, code=0):
        monkeypatch.setattr(sys, "argv", ["optimum-cli", *map(str, args)])
        try:
            main()
            found = 0
        except SystemExit as stop:
            found = stop.code or 0
        output = capsys.readouterr()
        assert found == code, output.err
        return output.out if code == 0 else output.err

    return run
