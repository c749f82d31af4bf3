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

"""`optimum-cli pitome serve`: asked over HTTP by the OpenAI client, as other programs do."""

import argparse
import base64
import errno
import importlib.util
import io
import re
import socket
import time
from pathlib import Path

import pytest
from families.llava_helpers import build
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, Qwen2Config, ViTConfig, ViTModel
from transformers.cli.serve import Serve
from transformers.cli.serving import model_manager
from zoo.llava import IMAGE_TOKEN, NUM_PATCHES, make_processor, picture

from optimum_pitome import PiToMeConfig
from optimum_pitome.commands import serve as command
from optimum_pitome.commands.options import add_options
from optimum_pitome.commands.serve_options import check_address


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A LLaVA dense, merged, and as a recipe, each with the processor of the dense one."""
    root = tmp_path_factory.mktemp("served")
    dense = build()
    dense.save_pretrained(root / "dense")
    AutoModelForImageTextToText.from_pretrained(root / "dense", pitome=0.8).save_pretrained(root / "merged")
    for name in ("dense", "merged"):
        make_processor().save_pretrained(root / name)
    PiToMeConfig(ratio=0.9, base_model_name_or_path=str(root / "dense")).save_pretrained(root / "recipe")
    return root


@pytest.fixture
def serve(optimum_cli, monkeypatch):
    """Starts the command's server in this process; returns the client, and how to ask it about pictures."""
    for package in command._PACKAGES:
        pytest.importorskip(package, reason="the server needs it")
    from openai import OpenAI

    started = []
    start = Serve.start_server
    monkeypatch.setattr(Serve, "start_server", lambda self: (started.append(self), start(self)))

    def run(model, *options):
        optimum_cli("pitome", "serve", model, *options, "--port", 0, "--device", "cpu", "--non-blocking")
        server = started[-1].server
        while not server.started:
            assert started[-1]._thread.is_alive()
            time.sleep(0.01)
        run.url = f"http://localhost:{server.servers[0].sockets[0].getsockname()[1]}/v1"
        chat = OpenAI(base_url=run.url, api_key="none").chat.completions
        return lambda *parts, **more: chat.create(
            model=str(model),
            messages=[{"role": "user", "content": [*map(part_of, parts)]}],
            max_tokens=8,
            temperature=0,
            **more,
        )

    yield run
    for server in started:
        server.kill_server()


def part_of(part):
    """A part of a message: a text, or a picture as base64."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    file = io.BytesIO()
    part.save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def generate(folder, pitome, pictures, words):
    """What `generate` says about pictures, and the tokens of the prompt as the processor writes it."""
    model, processor = AutoModelForImageTextToText.from_pretrained(folder, pitome=pitome), make_processor()
    inputs = processor(images=pictures, text="<image> " * len(pictures) + words, return_tensors="pt")
    found = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    length = inputs["input_ids"].shape[1]
    return processor.decode(found[0, length:], skip_special_tokens=True), length


@pytest.mark.parametrize(
    ("name", "options", "pitome", "kept"),
    [
        ("dense", ["--ratio", 1], None, NUM_PATCHES),
        ("dense", ["--ratio", 0.8], 0.8, 34),
        ("merged", [], 0.8, 34),
        ("merged", ["--ratio", 0.9], 0.9, 48),
        ("recipe", [], 0.9, 48),
    ],
)
def test_answers_and_usage(serve, folders, name, options, pitome, kept):
    ask, words = serve(folders / name, *options), "w20 w30 w31"
    for pictures in ([picture()], [picture(1), picture(2)]):
        expected, length = generate(folders / "dense", pitome, pictures, words)
        found = ask(*pictures, words)
        assert found.choices[0].message.content == expected != ""
        removed = len(pictures) * (NUM_PATCHES - kept)
        assert found.usage.prompt_tokens == length - removed and found.usage.completion_tokens == 8
    chunks = list(ask(*pictures, words, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].usage.prompt_tokens == length - removed
    assert ask("w9 w40").usage.prompt_tokens == 2


def test_the_page_on_serving_runs(serve, folders, tmp_path, monkeypatch):
    serve(folders / "merged")
    monkeypatch.chdir(tmp_path)
    picture().save("photo.png")
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    replaced = {"http://localhost:8000/v1": serve.url, "llava-hf/llava-1.5-7b-hf": str(folders / "merged")}
    for old, new in replaced.items():
        assert old in code
        code = code.replace(old, new)
    exec(code, found := {})
    expected, length = generate(folders / "dense", 0.8, [picture()], "What is this?")
    assert found["answer"].usage.prompt_tokens == length - (NUM_PATCHES - 34)
    assert found["answer"].choices[0].message.content.startswith(expected)


def test_merging_changes_the_answer(folders):
    """Else the test above would say nothing."""
    asked = [picture()], "w20 w30 w31"
    assert generate(folders / "dense", None, *asked) != generate(folders / "dense", 0.8, *asked)
    assert make_processor().tokenizer.convert_tokens_to_ids("<image>") == IMAGE_TOKEN


def options_of(*given):
    parser = argparse.ArgumentParser(prog="pitome")
    add_options(parser, "serve")
    return parser.parse_args([*map(str, given)])


def test_options_of_transformers_are_passed_on():
    """Their values are no model, and an option of ours is none of theirs."""
    args = options_of("--port", 8000, "llava", "--ratio", 0.8, "--compile", "--no-enable-cors", "--dtype=float16")
    assert args.passed_on == ["--port", "8000", "--compile", "--no-enable-cors", "--dtype", "float16"]
    assert (args.model, args.ratio, options_of("llava").passed_on) == ("llava", 0.8, [])


def test_the_help_shows_the_options_of_transformers(optimum_cli):
    text = optimum_cli("pitome", "serve", "--help")
    assert "--flops-ratio" in text and "--cb-block-size" in text and "Enable torch.compile" in text
    assert "non-blocking" not in text  # transformers hides it, too


def test_missing_packages_are_named(optimum_cli, folders, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in command._PACKAGES else find(name))
    error = optimum_cli("pitome", "serve", folders / "dense", code=2)
    assert 'needs fastapi, uvicorn, openai: pip install "optimum_pitome[serve]"' in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ratio", 0.3], "ratio=0.3 is out of range"),
        (["--layers", 9], "layers=[9]: the model has"),
        (["--port", "http"], "--port http: expected a whole number from 1 to 65535"),
        (["--port", 65536], "--port 65536: expected a whole number from 1 to 65535, or 0 for any free port"),
        (["--port", -1], "--port -1: expected a whole number"),
        (["--host", "256.256.256.256"], "Name an address of this machine, such as 0.0.0.0"),
        (["--speed", "high"], "unrecognized argument --speed."),
    ],
)
def test_bad_requests_end_before_weights_are_read(optimum_cli, folders, monkeypatch, options, message):
    monkeypatch.setattr(command, "_PACKAGES", ())
    monkeypatch.setattr("safetensors.safe_open", lambda *args, **kwargs: pytest.fail("weights were read"))
    assert message in optimum_cli("pitome", "serve", folders / "dense", *options, code=2)


def test_a_port_that_is_taken(optimum_cli, folders, monkeypatch):
    monkeypatch.setattr(command, "_PACKAGES", ())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = optimum_cli("pitome", "serve", folders / "dense", "--host", "127.0.0.1", "--port", port, code=2)
    assert f"--host 127.0.0.1 --port {port}: another program listens there" in error and "Traceback" not in error


def test_a_port_of_the_administrator(monkeypatch):
    def refused(self, address):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", type("Refusing", (socket.socket,), {"bind": refused}))
    with pytest.raises(ValueError, match="--host localhost --port 80: this user may not take that port"):
        check_address("localhost", "80")


def test_the_revision_reaches_weights_and_processor(optimum_cli, folders, monkeypatch):
    """The configuration and the processor take it by itself, `transformers serve` as a part of the name."""
    monkeypatch.setattr(command, "_PACKAGES", ())
    seen = []

    def local(auto_class):
        load = auto_class.from_pretrained

        def from_pretrained(name, *args, revision=None, **kwargs):
            if name == "me/llava":  # else a part of what was asked for
                seen.append((auto_class.__name__, name, revision))
            return load(folders / "dense", *args, **kwargs)

        return from_pretrained

    for auto_class in (AutoConfig, AutoProcessor):
        monkeypatch.setattr(auto_class, "from_pretrained", local(auto_class))
    monkeypatch.setattr(command.typer, "Typer", lambda **kwargs: Server(seen))
    optimum_cli("pitome", "serve", "me/llava", "--revision", "v1", "--ratio", 0.8, "--port", 0)
    assert seen == [
        ("AutoConfig", "me/llava", "v1"),
        ("AutoProcessor", "me/llava", "v1"),
        ("transformers serve", "me/llava@v1", None),
        ("weights", "me/llava@v1", None),
    ]


class Server:
    """In the place of the application that starts `transformers serve`: says what it is asked to load, and from where
    its manager takes the weights."""

    def __init__(self, seen):
        self.seen = seen

    def command(self):
        return lambda serve: None

    def __call__(self, args, prog_name):
        self.seen.append(("transformers serve", args[0], None))
        self.seen.append(("weights", model_manager.ModelManager.args[0], None))


def test_models_that_cannot_merge_are_refused(optimum_cli, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_PACKAGES", ())
    Qwen2Config(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, vocab_size=9).save_pretrained(tmp_path)
    error = optimum_cli("pitome", "serve", tmp_path, "--ratio", 0.9, code=2)
    assert "Qwen2Model has no encoder that optimum_pitome can rewrite" in error and "Traceback" not in error


def test_a_model_that_answers_nothing_is_refused(optimum_cli, tmp_path, monkeypatch):
    """Before anything is loaded, and before anybody installs packages: a server would fail at its first request."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in command._PACKAGES else find(name))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
    ViTModel(ViTConfig(**sizes)).save_pretrained(tmp_path)
    error = optimum_cli("pitome", "serve", tmp_path, "--ratio", 0.9, "--port", 0, code=2)
    assert "is a ViTModel, which answers nothing" in error and "examples/embed_dataset.py" in error
