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

"""`optimum-cli pitome visualize`, on tiny models and data on disk."""

import json
import wave
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_processors import image_processor
from transformers import (
    CLIPModel,
    LlavaNextImageProcessor,
    VideoMAEImageProcessorPil,
    VivitImageProcessor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.utils import is_torchvision_available
from zoo import all_cases
from zoo.audio import whisper_config
from zoo.vision_language import CASES
from zoo.vit import vit_config

from optimum_pitome import PiToMeConfig


@pytest.fixture
def visualize(optimum_cli, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    return lambda *args, **kwargs: optimum_cli("pitome", "visualize", *args, **kwargs)


MERGING = ("--ratio", 0.7, "--min-tokens", 1)


@pytest.mark.slow  # the floor has no AutoImageProcessor without torchvision
def test_pictures(visualize, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    Image.effect_noise((50, 40), 60).convert("P").save(tmp_path / "0.png")
    out = tmp_path / "out"
    text = visualize("vit", "pets/test/cat", broken, tmp_path / "0.png", *MERGING, "--side", 96, "-o", out)
    assert "0: 65 tokens, 18 after the last layer" in text and "broken" not in text
    names = {f"{name}{ending}" for name in ("0", "1", "2", "3", "0-2") for ending in (".png", ".json", "-layers.gif")}
    assert {path.name for path in out.iterdir()} == names
    found = json.loads((out / "0-2.json").read_text())
    assert found["file"].endswith("0.png") and found["model"] == "vit" and found["settings"]["ratio"] == 0.7
    assert (found["rows"], found["columns"], found["tokens"]) == (8, 8, 65)
    assert [layer["tokens"] for layer in found["layers"]] == [46, 33, 24, 18]
    assert all(len(set(layer["groups"])) == layer["tokens"] for layer in found["layers"])
    with Image.open(out / "1.png") as still, Image.open(out / "1-layers.gif") as moving:
        assert still.format == "PNG" and moving.n_frames == 5
        width = still.width
    visualize("vit", "pets/test/cat/1.png", *MERGING, "--side", 96, "--show-layers", 0, "-1", "-o", out)
    with Image.open(out / "1.png") as still:
        assert still.width < width


@pytest.mark.slow  # the floor has no AutoImageProcessor without torchvision
def test_a_recipe_and_a_tower(visualize, tmp_path):
    PiToMeConfig(ratio=0.6, min_tokens=1, base_model_name_or_path="vit").save_pretrained(tmp_path / "recipe")
    text = visualize(tmp_path / "recipe", "pets/test/dog/0.png", "-o", tmp_path / "out")
    assert "65 tokens, 10 after the last layer" in text
    torch.manual_seed(0)
    CLIPModel(next(case for case in CASES if case.id == "CLIPModel").config()).save_pretrained(tmp_path / "clip")
    image_processor().save_pretrained(tmp_path / "clip")
    text = visualize(tmp_path / "clip", "pets/test/dog/0.png", *MERGING, "-o", tmp_path / "out")
    assert "65 tokens, 18 after the last layer" in text
    error = visualize(tmp_path / "clip", "--text", "a b c", *MERGING, "-o", tmp_path / "out", code=2)
    assert "CLIPModel merges nothing of texts: see docs/models.md" in error


@pytest.mark.slow  # the floor has no AutoImageProcessor without torchvision
def test_tiles_of_a_llava(visualize, tmp_path):
    case = next(case for case in all_cases() if case.id == "LlavaNextForConditionalGeneration")
    case.build().save_pretrained(tmp_path / "llava")
    tiles = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    LlavaNextImageProcessor(**tiles, image_grid_pinpoints=[[32, 64]]).save_pretrained(tmp_path / "llava")
    text = visualize(tmp_path / "llava", "pets/test/dog/0.png", *MERGING, "--side", 64, "-o", tmp_path / "out")
    for tile in range(3):  # the whole picture, and two halves
        assert f"0-{tile}: 65 tokens" in text and (tmp_path / "out" / f"0-{tile}.png").is_file()
    assert len(list((tmp_path / "out").iterdir())) == 9


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A tiny VideoMAE of four frames, and a clip of six: as an animation, and as a folder of frames."""
    folder = tmp_path_factory.mktemp("clips")
    next(case for case in all_cases() if case.id == "VideoMAEModel").build().save_pretrained(folder / "videomae")
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    VideoMAEImageProcessorPil(**sizes).save_pretrained(folder / "videomae")
    (folder / "frames").mkdir()
    frames = [Image.new("RGB", (20, 20), (50 * index, 0, 0)) for index in range(6)]
    for index, frame in enumerate(frames):
        frame.save(folder / "frames" / f"{index}.png")
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:])
    return folder


@pytest.mark.slow  # the floor has no AutoImageProcessor without torchvision
def test_clips(visualize, clips, tmp_path):
    (tmp_path / "empty").mkdir()
    files = (clips / "clip.gif", clips / "frames", tmp_path / "empty")
    text = visualize(clips / "videomae", *files, *MERGING, "--side", 64, "-o", tmp_path / "out")
    assert "clip: 32 tokens, 12 after the last layer" in text and "frames: 32 tokens" in text
    assert len(list((tmp_path / "out").iterdir())) == 6  # nothing of the empty folder
    found = [json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("clip", "frames")]
    assert found[0]["columns"] == 8 and found[0]["layers"] == found[1]["layers"]  # the same four of six frames
    with Image.open(tmp_path / "out" / "clip.png") as still:
        assert still.width > 2 * 64


@pytest.mark.slow
def test_clips_of_other_models(visualize, clips, tmp_path):
    next(case for case in all_cases() if case.id == "VivitModel").build().save_pretrained(tmp_path / "vivit")
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    VivitImageProcessor(**sizes).save_pretrained(tmp_path / "vivit")
    text = visualize(tmp_path / "vivit", clips / "clip.gif", *MERGING, "--side", 64, "-o", tmp_path / "out")
    assert "clip: 33 tokens" in text
    if is_torchvision_available():
        pytest.skip("what is missing elsewhere is here")
    next(case for case in all_cases() if case.id == "VJEPA2Model").build().save_pretrained(tmp_path / "vjepa2")
    (tmp_path / "vjepa2" / "preprocessor_config.json").write_text('{"video_processor_type": "VJEPA2VideoProcessor"}')
    error = visualize(tmp_path / "vjepa2", clips / "clip.gif", *MERGING, "-o", tmp_path / "none", code=2)
    assert "its processor of clips needs torchvision (pip install torchvision)" in error


def test_videos(visualize, clips, tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for index in range(7):
            frame = np.full((32, 32, 3), 30 * index, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    files = (tmp_path / "clip.mp4", tmp_path / "broken.mp4")
    text = visualize(clips / "videomae", *files, *MERGING, "--side", 64, "-o", tmp_path / "out")
    assert "clip: 32 tokens, 12 after the last layer" in text and len(list((tmp_path / "out").iterdir())) == 3


@pytest.fixture
def sound(tmp_path):
    """An eighth of a second of a rising tone, as a file."""
    time = np.arange(2000) / 16000
    samples = (20000 * np.sin(2 * np.pi * (500 + 1000 * time) * time)).astype("<i2")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
        file.writeframes(samples.tobytes())
    return tmp_path / "tone.wav"


def test_sounds(visualize, sound, tmp_path):
    pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    next(case for case in all_cases() if case.id == "Wav2Vec2ForCTC").build().save_pretrained(tmp_path / "wav2vec2")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "wav2vec2")
    config = whisper_config()
    config.max_source_positions = 50  # one second
    torch.manual_seed(0)
    WhisperForConditionalGeneration(config).save_pretrained(tmp_path / "whisper")
    WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(tmp_path / "whisper")
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    text = visualize(tmp_path / "wav2vec2", sound, tmp_path / "broken.wav", *MERGING, "-o", tmp_path / "a")
    assert "tone: 249 tokens" in text and len(list((tmp_path / "a").iterdir())) == 3
    text = visualize(tmp_path / "whisper", sound, *MERGING, "-o", tmp_path / "b")
    assert "tone: 50 tokens" in text
    found = json.loads((tmp_path / "b" / "tone.json").read_text())
    assert (found["rows"], found["columns"]) == (4, 13) and found["file"].endswith("tone.wav")


def test_sounds_without_the_packages(visualize, sound, tmp_path, monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("load_audio requires the soundfile library")

    monkeypatch.setattr("optimum_pitome.commands.media.load_audio", missing)
    next(case for case in all_cases() if case.id == "WhisperModel").build().save_pretrained(tmp_path / "model")
    WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(tmp_path / "model")
    error = visualize(tmp_path / "model", sound, *MERGING, "-o", tmp_path / "out", code=2)
    assert "Sounds are read with other packages (pip install soundfile soxr)" in error


def test_texts(visualize, tmp_path):
    (tmp_path / "texts.txt").write_text("a b c d e f g h\n\nh g f e d c b a\n")
    options = (*MERGING, "--layers", "0,1", "--text-file", tmp_path / "texts.txt")
    text = visualize("bert", "--text", "a a a b b b c c", *options, "-o", tmp_path / "out")
    assert "text 1: 8 tokens" in text and "text 3: 8 tokens" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["text.html", "text.json", "text.svg"]
    page = (tmp_path / "out" / "text.html").read_text()
    assert page.count("<h2>") == 3 and page.count("<span") == 3 * 2 * 8 and "<sub>1</sub>" in page
    drawn = ElementTree.fromstring((tmp_path / "out" / "text.svg").read_text())
    words = [one.text for one in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("h") == 4 and any(word.startswith("text 2, layer 1:") for word in words)
    found = json.loads((tmp_path / "out" / "text.json").read_text())
    assert len(found["samples"]) == 3 and found["samples"][0]["texts"] == "a a a b b b c c".split()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Name pictures, clips or sounds, or folders"),
        (["pets", "--text", "a"], "one of the two"),
        (["nowhere.png"], "nowhere.png: there is no such file or folder. Name a text with --text"),
        (["bert"], "BertForSequenceClassification merges nothing of pictures"),
        (["--text-file", "nowhere.txt"], "--text-file nowhere.txt: there is no such file. Or name texts with --text"),
        (["pets", "--side", 8], "--side 8: expected at least 64 pixels"),
        (["--text", "a b c", "--device", "nowhere"], "--device nowhere"),
        (["--text", "a b c", "--ratio", 1], "merged nothing"),
        (
            ["--text", "a a b b c c d d", *MERGING, "--show-layers", 7],
            "--show-layers 7: expected some of the layers",
        ),
    ],
)
def test_errors(visualize, tmp_path, arguments, message):
    assert message in visualize("bert", *arguments, "-o", tmp_path / "out", code=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # the floor has no AutoImageProcessor without torchvision
def test_no_picture_is_left(visualize, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    whole = Image.effect_noise((90, 90), 60)
    whole.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    error = visualize("vit", tmp_path, *MERGING, "-o", tmp_path / "out", code=2)
    assert "broken.png is left out, since it cannot be read" in error and "cut.png is left out" in error
    assert "None of the files could be read." in error and not (tmp_path / "out").exists()


def test_a_data_set_on_disk_is_named_before_weights_are_read(visualize, tmp_path):
    """`pairs` was written by `save_to_disk`; the model has a configuration and nothing more."""
    vit_config().save_pretrained(tmp_path / "no weights")
    error = visualize(tmp_path / "no weights", "pairs", *MERGING, "-o", tmp_path / "out", code=2)
    assert "pairs: this is a data set that save_to_disk wrote" in error and "Name files of pictures" in error
