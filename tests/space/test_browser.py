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

"""The app in a real browser without a window (`make test-space`): the page, its slider, its messages, two users.

It needs gradio, playwright, and a Chromium, which `$CHROMIUM` names or which is called `chromium`.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import real_assets


pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
APP = Path(__file__).parents[2] / "examples" / "space" / "app.py"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install chromium, or name one in $CHROMIUM"),
]
#: Milliseconds that a request may take on a busy machine.
PATIENCE = 90_000


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The app with the packaged weights, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("app") / "log"
    with log.open("w") as output:
        # Nothing is asked of a Hub, and nothing is told to the makers of gradio.
        quiet = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, str(APP), "--port", str(port)]
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **quiet})
    try:
        for _ in range(240):
            if "Running on local URL" in log.read_text():
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.5)
        else:
            pytest.fail(log.read_text())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def user(browser, address):
    """Opens the page as somebody new. No page may have had an error in its console at the end."""
    contexts, errors = [], []

    def enter():
        context = browser.new_context(viewport={"width": 1400, "height": 1200})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda asked: errors.append(asked.url) if not _local(asked.url, address) else None)
        page.goto(address)
        page.wait_for_selector("#picture-run")
        return page

    yield enter
    for context in contexts:
        context.close()
    assert errors == []


def _local(url, address):
    return url.startswith((address, "data:", "blob:"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photos as files."""
    folder = tmp_path_factory.mktemp("photos")
    pictures = real_assets.imagenet_photos()["image"]
    for number in (0, 7):
        pictures[number].convert("RGB").save(folder / f"{number}.png")
    return [folder / "0.png", folder / "7.png"]


def choose(page, photo):
    page.set_input_files("#picture input[type=file]", photo)
    page.wait_for_selector("#picture-preview img")


def set_slider(page, name, value):
    box = page.locator(f"#{name} input[type=number]")
    box.fill(str(value))
    box.press("Enter")


def numbers_of(page, layer, kind="picture"):
    """The table of a layer, once it is there."""
    table = page.locator(f"#{kind}-numbers")
    playwright.expect(table).to_contain_text(f"layer {layer}", timeout=PATIENCE)
    return table.inner_text()


def tokens_of(page, kind="picture"):
    """Dense and merged tokens at the end, as the table of the whole says."""
    table = page.locator(f"#{kind}-whole")
    playwright.expect(table).to_contain_text("tokens at the end", timeout=PATIENCE)
    return tuple(map(int, re.search(r"at the end\s+(\d+)\s+(\d+)", table.inner_text()).groups()))


def test_a_picture(user, photos):
    page = user()
    choose(page, photos[0])
    page.click("#picture-run")
    last = numbers_of(page, 11)
    assert tokens_of(page) == (257, 47)
    assert re.search(r"tokens\s+58 → 47", last), last
    whole = page.locator("#picture-whole").inner_text()
    assert re.search(r"GFLOPs\s+6\.07\s+3\.36\s+1\.80 ×", whole) and "milliseconds" in whole
    assert "Cosine of the merged embedding" in page.locator("#picture-said").inner_text()
    playwright.expect(page.locator("#picture-dense img")).to_have_count(5)
    playwright.expect(page.locator("#picture-merged img")).to_have_count(5)
    drawn = page.locator("#picture-groups img")
    before = drawn.get_attribute("src")
    set_slider(page, "picture-layer", 2)
    third = numbers_of(page, 2)
    assert re.search(r"tokens\s+2\d\d → 209", third) and third != last
    playwright.expect(drawn).not_to_have_attribute("src", before, timeout=PATIENCE)
    assert drawn.evaluate("image => image.naturalWidth") > 700  # the photo beside its groups


def test_a_text(user):
    page = user()
    page.get_by_role("tab", name="Text").click()
    page.click("#text-run")
    last = numbers_of(page, 5, "text")
    dense, merged = tokens_of(page, "text")
    assert dense > 60 and merged < dense
    assert "Tickets for children cost nothing." in page.locator("#text-said").inner_text()
    boxes = page.locator("#text-groups svg rect")
    assert boxes.count() > dense  # one for each token, and the paper
    before = page.locator("#text-groups").inner_html()
    set_slider(page, "text-layer", 0)
    assert numbers_of(page, 0, "text") != last
    playwright.expect(page.locator("#text-groups")).to_contain_text("layer 0:", timeout=PATIENCE)
    assert page.locator("#text-groups").inner_html() != before


def test_messages(user, tmp_path, photos):
    page = user()
    page.click("#picture-run")
    playwright.expect(page.get_by_text("Choose a picture first.")).to_be_visible(timeout=PATIENCE)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page.set_input_files("#picture input[type=file]", tmp_path / "broken.png")
    said = page.get_by_text("This picture cannot be read").first
    playwright.expect(said).to_be_visible(timeout=PATIENCE)
    # The app goes on: what follows works.
    page.reload()
    page.wait_for_selector("#picture-run")
    choose(page, photos[0])
    model = page.locator("#picture-model input")
    model.fill("no such model!")
    model.press("Enter")
    page.click("#picture-run")
    playwright.expect(page.get_by_text("Repo id must use alphanumeric chars").first).to_be_visible(timeout=PATIENCE)
    model.fill("DINOv2-small (packaged)")
    model.press("Enter")
    page.click("#picture-run")
    assert tokens_of(page) == (257, 47)


def test_two_users_at_once(user, photos):
    """Other pictures, budgets and algorithms in one model at the same time: everybody gets what is theirs."""
    alone = user()
    choose(alone, photos[1])
    set_slider(alone, "picture-budget", 1.2)
    alone.click("#picture-run")
    expected = numbers_of(alone, 11), tokens_of(alone), alone.locator("#picture-said").inner_text()
    first, second = user(), user()
    choose(first, photos[0])
    choose(second, photos[1])
    set_slider(second, "picture-budget", 1.2)
    for _ in range(3):
        first.click("#picture-run")
        second.click("#picture-run")
    first.wait_for_timeout(500)
    for page in (first, second):  # until nothing runs any more
        page.wait_for_function("() => !document.querySelector('#picture-groups .progress-text, .generating')")
    assert numbers_of(second, 11) == expected[0] and tokens_of(second) == expected[1]
    assert second.locator("#picture-said").inner_text() == expected[2]
    assert tokens_of(first) == (257, 47) != expected[1]
    # What each looks at next is drawn from what they asked for.
    set_slider(first, "picture-layer", 5)
    set_slider(second, "picture-layer", 5)
    assert re.search(r"→ 143", numbers_of(first, 5))
    assert numbers_of(second, 5) != numbers_of(first, 5)
