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

"""Options that are wrong end the command at once: no torch, no transformers, no look at the model."""

import argparse
import json
import subprocess
import sys

import pytest

from optimum_pitome import PiToMeConfig
from optimum_pitome.commands import arguments, export, options, spectrum, tune
from optimum_pitome.configuration.fields import FIELDS
from optimum_pitome.families.text import BUDGET_DEFAULTS


def parse(*given):
    parser = argparse.ArgumentParser(prog="pitome")
    options.add_settings(parser)
    return parser.parse_args([str(option) for option in given])


@pytest.mark.parametrize(
    "given, expected",
    [
        ([], None),
        (["--ratio", "0.8"], {"ratio": 0.8}),
        (["--ratio", "0.8,1"], {"ratio": [0.8, 1.0]}),
        (["--layers", "3"], {"layers": [3]}),
        (["--layers", "0,-1", "--min-tokens", "4"], {"layers": [0, -1], "min_tokens": 4}),
        (["--algorithm", "tome", "--importance", "0"], {"algorithm": "tome", "importance": 0.0}),
        (["--energy", "elu", "--metric", "keys"], {"energy": "elu", "metric": "keys"}),
        (["--preset", "official"], {"preset": "official"}),
        (["--margin", "-0.5", "--alpha", "2"], {"margin": -0.5, "alpha": 2.0}),
        (["--margin=-0.5,0.25"], {"margin": [-0.5, 0.25]}),
        (["--unmerge", "--no-proportional-attention"], {"unmerge": True, "proportional_attention": False}),
        (["--protect-token-ids", "103"], {"protect_token_ids": [103]}),
        (["--parts", '{"audio": 0.8}'], {"parts": {"audio": {"ratio": 0.8}}}),
        (["--pitome-config", '{"ratio": 0.8, "unmerge": true}', "--no-unmerge"], {"ratio": 0.8, "unmerge": False}),
        (["--pitome-config", '{"vision": 0.8}', "--ratio", "1"], {"parts": {"vision": {"ratio": 0.8}}, "ratio": 1.0}),
    ],
)
def test_what_options_say(given, expected):
    found = arguments.settings_from(parse(*given))
    assert found == expected
    PiToMeConfig(**(found or {}))


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_an_option(name):
    """Fields that belong to a file have no option."""
    parser = argparse.ArgumentParser()
    options.add_settings(parser)
    text = " ".join(parser.format_help().split())
    option, sentence = f"--{name.replace('_', '-')}", FIELDS[name].help.replace("`", "")
    belongs_to_files = name in ("base_model_name_or_path", "format_version")
    assert (option in text) is (sentence in text) is not belongs_to_files


def test_a_recipe_is_a_file_of_settings(tmp_path):
    config = PiToMeConfig(0.75, layers=[0, 1], algorithm="tome")
    config.save_pretrained(tmp_path)
    found = arguments.settings_from(parse("--pitome-config", tmp_path / "config.json"))
    assert PiToMeConfig(**found) == config
    (tmp_path / "all.json").write_text(json.dumps(config.to_dict()))
    assert PiToMeConfig(**arguments.settings_from(parse("--pitome-config", tmp_path / "all.json"))) == config


@pytest.mark.parametrize("wrong", ['{"ratio": 0.3}', '{"ratoi": 0.3}', '{"ratio": 0.9, ', "[0.9]"])
def test_a_broken_file_of_settings_is_named(wrong, tmp_path, capsys):
    (tmp_path / "config.json").write_text(wrong)
    with pytest.raises(SystemExit):
        parse("--pitome-config", tmp_path / "config.json")
    assert f"argument --pitome-config: {tmp_path / 'config.json'}: " in capsys.readouterr().err


def test_what_commands_read_by_default():
    """The help says how many samples, which the commands know."""
    for command, module, also in (("tune", tune, "1000"), ("spectrum", spectrum, ""), ("export", export, "")):
        parser = argparse.ArgumentParser()
        options.add_options(parser, command)
        text = " ".join(parser.format_help().split())
        said = text.rpartition("--max-samples MAX_SAMPLES Number of samples (")[2].partition(")")[0]
        assert said.startswith(str(module._NUM_SAMPLES)) and said.endswith(also), command
    assert tune._NUM_SAMPLES_OF_A_BOUND == 1000


def test_the_help_says_what_texts_with_a_budget_get():
    """Beside what is usual, which is said of everything else."""
    for name, value in BUDGET_DEFAULTS.items():
        assert (
            "exts with a budget, but for labels of every token" in FIELDS[name].help
            and str(value) in FIELDS[name].help
        )


WRONG = {
    "--ratio 0.2": "argument --ratio: ratio=0.2 is out of range",
    "--ratio 0.9,0.2": "argument --ratio: ratio[1]=0.2 is out of range",
    "--ratio 0,9": " 0,9 is read as the list 0, 9: write 0.9.",
    "--flops-ratio 1,8": " 1,8 is read as the list 1, 8: write 1.8.",
    "--ratio high": "argument --ratio: high: expected a number",
    "--layers 1,1": "names a layer twice",
    "--layers x": "argument --layers: x: expected a number",
    "--min-tokens -1": "at least 0",
    "--min-tokens 2.5": "min_tokens=2.5: expected a whole number",
    "--layers 0,0.5": "expected a list of layer indices",
    "--protect-token-ids 4,4": "names a token twice",
    "--parts vision": 'Expected JSON such as {"vision": 0.9}, or a file of it',
    "--parts {}": "expected a dict from part to settings",
    '--parts {"vision":{"ration":0.9}}': "argument --parts: parts['vision']: PiToMeConfig has no field 'ration'",
    "--margin 1": "margin=1.0 is out of range",
    "--importance 2": "importance=2.0 is out of range",
    "--algorithm pitmoe": "argument --algorithm: algorithm='pitmoe' is not known. Accepted: 'pitome'",
    "--energy cosine": "argument --energy: energy='cosine' is not known",
    "--metric cosine": "argument --metric: metric='cosine' is not known",
    "--preset paper": "argument --preset: preset='paper' is not known",
    '--pitome-config {"ratoi":0.9}': "Did you mean 'ratio'?",
    '--pitome-config {"vision":{"ration":0.9}}': "parts['vision']: PiToMeConfig has no field 'ration'",
    "--pitome-config nowhere.json": "--pitome-config: nowhere.json: there is no such file. Expected JSON such as",
    '--pitome-config {"ratio"': "or a file of it",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_options(line, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(*line.split(" ", 1))
    assert stop.value.code == 2 and WRONG[line] in capsys.readouterr().err


def test_wrong_options_cost_no_imports():
    script = (
        "import argparse, sys\n"
        "from optimum_pitome.commands import options\n"
        "parser = argparse.ArgumentParser()\n"
        "options.add_settings(parser)\n"
        "try:\n"
        "    parser.parse_args(['--algorithm', 'pitmoe'])\n"
        "except SystemExit:\n"
        "    print('torch' in sys.modules, 'transformers' in sys.modules, 'numpy' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False", "False"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["summary", "bert", "--flop-ratio", "1.3"], "argument --flop-ratio. Did you mean --flops-ratio?"),
        (
            ["evaluate", "bert", "--flops_ratios=1.3", "--task", "text-classification", "--dataset", "x"],
            "--flops-ratios?",
        ),
        (["compare", "grid.yaml", "more", "-o", "out"], "unrecognized argument more."),
        (
            ["summary", "bert", "--min-agreement", "1"],
            "--min-agreement. Leave it out of summary: it is an option of tune.",
        ),
        (["tune", "bert", "--dataset", "x", "--zzz"], "unrecognized argument --zzz."),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_options_get_one_line_of_usage_and_the_nearest(capsys, words, said):
    command, *given = words
    parser = argparse.ArgumentParser(prog=f"optimum-cli pitome {command}")
    options.add_options(parser, command)
    with pytest.raises(SystemExit):
        parser.parse_args(given)
    usage, error, *others = capsys.readouterr().err.splitlines()
    assert usage.startswith(f"usage: optimum-cli pitome {command} ") and usage.endswith("(--help lists them)")
    assert error.endswith(said) and not others
