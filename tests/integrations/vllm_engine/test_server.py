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

"""vLLM's OpenAI server over HTTP, in all its processes: chats with a picture, at once and streamed."""

import base64
import io
import json
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from integrations.vllm_engine.models import NEW_TOKENS, PITOME, answers, environment, save_llava
from openai import OpenAI
from transformers import AutoConfig, AutoTokenizer
from zoo.llava import picture

from optimum_pitome import num_image_tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llava(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def client(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "llava", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--dtype", "float32", "--max-model-len", "512", "--hf-overrides", json.dumps({"pitome": PITOME})]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, env=environment(), stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait(server, f"http://127.0.0.1:{port}/health", folder / "server.log")
        yield OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    finally:
        server.terminate()
        server.wait(60)


def _wait(server, address, log, seconds=300):
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            return urllib.request.urlopen(address, timeout=5)
        except OSError:
            time.sleep(1)
    raise AssertionError(log.read_text()[-6000:])


def chat(client, text, *seeds, **kwargs):
    parts = [{"type": "text", "text": text}]
    for seed in reversed(seeds):
        file = io.BytesIO()
        picture(seed).save(file, "PNG")
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return client.chat.completions.create(
        model="llava",
        messages=[{"role": "user", "content": parts}],
        temperature=0,
        max_tokens=NEW_TOKENS,
        extra_body={"ignore_eos": True},
        **kwargs,
    )


def expected(folder, text, seeds=()):
    (tokens,) = answers(folder, [("<image> " * len(seeds) + text, seeds)], pitome=PITOME)
    return AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(tokens)


@pytest.mark.parametrize("seeds", [(0,), ()])
def test_a_chat(client, folder, seeds):
    config = AutoConfig.from_pretrained(folder)
    config.pitome = PITOME
    answer = chat(client, "w12 w13", *seeds)
    assert answer.choices[0].message.content.split() == expected(folder, "w12 w13", seeds)
    assert answer.usage.prompt_tokens == 2 + len(seeds) * num_image_tokens(config)
    assert answer.usage.completion_tokens == NEW_TOKENS


def test_a_streamed_chat(client, folder):
    pieces = [part.choices[0].delta.content or "" for part in chat(client, "w40", 1, stream=True)]
    assert sum(map(bool, pieces)) > 3
    assert "".join(pieces).split() == expected(folder, "w40", (1,))
