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

"""What the app of `examples/space` shows, without gradio: tiny models from folders, and requests from threads."""

import threading
import xml.etree.ElementTree as ElementTree

import engine as engine_module
import numpy as np
import pytest
import torch
from engine import Engine
from PIL import Image
from tiny_processors import image_processor, tokenizer
from transformers import CLIPModel, ViTForImageClassification, ViTImageProcessorPil, ViTModel
from zoo.text import CASES as TEXTS
from zoo.vision_language import CASES as PAIRS
from zoo.vit import vit_config

from optimum_pitome import pitome_summary
from optimum_pitome.modeling.rewrite import rewritten_encoders


# The floor has no AutoImageProcessor without torchvision.
pytestmark = pytest.mark.slow
BUDGET = 1.4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An encoder and a classifier of pictures, an encoder of texts, and a CLIP, each in its folder."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    ViTModel(vit_config(), add_pooling_layer=False).save_pretrained(root / "vit")
    config = vit_config()
    config.id2label = dict(enumerate("abc"))
    ViTForImageClassification(config).save_pretrained(root / "classifier")
    for name in ("vit", "classifier"):
        ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root / name)
    next(case for case in TEXTS if case.id == "BertModel").build().save_pretrained(root / "bert")
    tokenizer().save_pretrained(root / "bert")
    CLIPModel(next(case for case in PAIRS if case.id == "CLIPModel").config()).save_pretrained(root / "clip")
    image_processor().save_pretrained(root / "clip")
    return {name: str(root / name) for name in ("vit", "classifier", "bert", "clip")}


@pytest.fixture(scope="module")
def pictures():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)) for _ in range(7)]


def test_a_picture_and_its_neighbours(folders, pictures):
    engine = Engine(folders, pictures)
    shown = engine.show_picture("vit", pictures[3], BUDGET, "default")
    expected = ViTModel.from_pretrained(folders["vit"], pitome={"flops_ratio": BUDGET})
    summary = pitome_summary(expected, num_tokens=65)
    assert shown.summary.tokens == summary.tokens and shown.summary.gflops_dense == summary.gflops_dense
    assert [layer.num_tokens for layer in shown.sample.layers] == summary.tokens[1:]
    found = shown.comparison
    assert found.dense[0] == (3, pytest.approx(1.0, abs=1e-5)) and len(found.dense) == len(found.merged) == 5
    assert 0.5 < found.cosine < 1 and found.merged[0][1] < 1 - 1e-6 and found.labels == []
    last = len(shown.sample.layers) - 1
    assert f"| tokens | {summary.tokens[-2]} → {summary.tokens[-1]} |" in shown.layer_table(last)
    assert f"| tokens at the end | 65 | {summary.tokens[-1]} |" in shown.whole_table()
    assert shown.picture(0).tobytes() != shown.picture(last).tobytes()
    assert shown.timing.rounds == engine_module.ROUNDS


def test_classes(folders, pictures):
    shown = Engine(folders).show_picture("classifier", pictures[0], BUDGET, "tome")
    found = shown.comparison
    assert found.labels == ["a", "b", "c"] and found.cosine is None
    assert sum(score for _, score in found.dense) == pytest.approx(1) and found.dense != found.merged


def test_a_text(folders):
    text, others = "a photo of cat dog what is this red blue frog", "a photo of cat\n\nyes no how many\n"
    shown = Engine(folders).show_text("bert", text, others, BUDGET, "tome")
    assert [place for place, _ in shown.comparison.dense] in ([0, 1], [1, 0])
    drawn = ElementTree.fromstring(shown.svg(0))
    assert any((one.text or "").startswith("text 1, layer 0") for one in drawn.iter())
    assert shown.summary.tokens[0] == len(shown.sample.tokens)


def test_a_tower_is_taken_of_a_pair(folders, pictures):
    engine = Engine(folders)
    assert engine.show_picture("clip", pictures[0], BUDGET, "pitome").summary.tokens[0] == 65
    with pytest.raises(ValueError, match="CLIPModel merges nothing of texts"):
        engine.show_text("clip", "a", "", BUDGET, "tome")


def test_users_at_once_get_what_they_asked_for(folders, pictures):
    engine = Engine(folders, pictures)
    requests = [
        ("vit", pictures[0], 1.4, "pitome"),
        ("vit", pictures[1], 1.15, "tome"),
        ("vit", pictures[2], 1.6, "dct"),
    ]
    expected = [engine.show_picture(*request) for request in requests]
    found = [[] for _ in requests]

    def ask(place):
        found[place].extend(engine.show_picture(*requests[place]) for _ in range(4))

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for alone, together in zip(expected, found):
        assert len(together) == 4
        for shown in together:
            assert shown.comparison == alone.comparison and shown.summary == alone.summary
            for one, two in zip(shown.sample.layers, alone.sample.layers):
                assert np.array_equal(one.groups, two.groups)
    assert len({shown.comparison.cosine for shown in expected}) == 3
    (loaded,) = engine._models.values()
    assert rewritten_encoders(loaded.model) == []


def test_an_error_leaves_the_model_dense(folders, pictures):
    engine = Engine(folders, pictures)
    before = engine.show_picture("vit", pictures[0], BUDGET, "pitome")
    with pytest.raises(ValueError, match="algorithm"):
        engine.show_picture("vit", pictures[0], BUDGET, "nothing")
    with pytest.raises(ValueError, match="flops_ratio"):
        engine.show_picture("vit", pictures[0], 90.0, "pitome")
    after = engine.show_picture("vit", pictures[0], BUDGET, "pitome")
    assert after.comparison == before.comparison


def test_models_are_few_at_a_time(folders, pictures):
    engine = Engine(folders, keep=2)
    for name in ("vit", "classifier", "vit", "clip"):
        engine.show_picture(name, pictures[0], BUDGET, "tome")
    assert [name for name, _ in engine._models] == ["vit", "clip"]


def test_what_is_refused(folders, pictures, monkeypatch, tmp_path):
    engine = Engine(folders)
    with pytest.raises(ValueError, match="Choose a picture first"):
        engine.show_picture("vit", None, BUDGET, "pitome")
    with pytest.raises(ValueError, match="Write a text first"):
        engine.show_text("bert", "  ", "", BUDGET, "tome")
    for name in (folders["vit"], "../vit", "no such model!", ""):  # a path is no name, even of a model
        with pytest.raises(ValueError, match="Repo id must"):
            engine.show_picture(name, pictures[0], BUDGET, "pitome")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(ValueError, match="here is a folder of this machine"):
        engine.show_picture("here", pictures[0], BUDGET, "pitome")
    monkeypatch.setattr(engine_module, "MAX_PARAMETERS", 1000)
    with pytest.raises(ValueError, match="this app takes up to 1,000"):
        engine.show_picture("vit", pictures[0], BUDGET, "pitome")
    assert not engine._models
