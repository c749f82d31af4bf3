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

"""The retrieval example on tiny checkpoints and pictures made here."""

import json
import sys

import image_text_retrieval
import pytest
import torch
from datasets import Dataset, Features, Image, Sequence, Value
from PIL import Image as PILImage
from retrieval_data import load_captioned_pictures
from retrieval_models import load_retrieval_model
from tiny_processors import image_processor, tokenizer
from transformers import BlipImageProcessor, BlipProcessor, CLIPImageProcessor, CLIPProcessor
from zoo import vision_language

from optimum_pitome import apply_pitome


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures with two captions each; the first two share one."""
    directory = tmp_path / "pictures"
    words = "cat dog frog red blue this sign letter yes no many picture".split()
    images = [PILImage.effect_noise((40, 40), 20 + 10 * i).convert("RGB") for i in range(12)]
    captions = [[f"a photo of {word}", f"the sign for {word}"] for word in words]
    captions[1][0] = captions[0][0]
    features = Features(image=Image(), captions=Sequence(Value("string")))
    Dataset.from_dict({"image": images, "captions": captions}, features).save_to_disk(directory)
    return str(directory)


def checkpoint(directory, name):
    model = next(case for case in vision_language.CASES if case.id == name).build()
    model.save_pretrained(directory)
    kinds = {"CLIPModel": (CLIPProcessor, CLIPImageProcessor)}
    kind, images = kinds.get(name, (BlipProcessor, BlipImageProcessor))
    kind(image_processor(images), tokenizer()).save_pretrained(directory)
    return str(directory)


def test_equal_captions_are_right_for_every_picture(pictures):
    data = load_captioned_pictures(pictures)
    assert len(data.pictures) == 12 and len(data.captions) == 23
    assert data.captions_of[:2] == [[0, 1], [0, 2]] and data.pictures_of[0] == [0, 1]
    assert len(load_captioned_pictures(pictures, max_pictures=5).pictures) == 5
    with pytest.raises(ValueError, match="--split train: .* has no such split. It has: test"):
        load_captioned_pictures(pictures, "train")
    with pytest.raises(ValueError, match="--caption-column"):
        load_captioned_pictures(pictures, caption_column="story")


@pytest.mark.parametrize("name", ["CLIPModel", "BlipForImageTextRetrieval"])
def test_the_script(name, pictures, tmp_path, monkeypatch):
    model = checkpoint(tmp_path / "model", name)
    arguments = ["--model", model, "--dataset", pictures, "--ratios", "0.9", "0.8", "--rerank", "4"]
    arguments += ["--batch-size", "5", "--timed-batches", "1", "--output-dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["image_text_retrieval.py", *arguments])
    image_text_retrieval.main()
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert [result["ratio"] for result in results] == [1.0, 0.9, 0.8]
    assert [result["tokens"] for result in results] == [65, 45, 29]
    assert results[2]["gflops"] < results[1]["gflops"] < results[0]["gflops"]
    for result in results:
        assert result["rsum"] == pytest.approx(
            sum(result["captions_for_pictures"]) + sum(result["pictures_for_captions"])
        )
    assert (results[0]["rerank_seconds"] > 0) == (name == "BlipForImageTextRetrieval")
    assert (tmp_path / "out" / "rsum_against_flops.png").stat().st_size > 10_000


@pytest.mark.parametrize("ratio", [None, 0.8])
def test_reranking_scores_pairs_as_the_model_does(ratio, pictures, tmp_path):
    data = load_captioned_pictures(pictures)
    scorer = load_retrieval_model(checkpoint(tmp_path, "BlipForImageTextRetrieval"))
    if ratio is not None:
        apply_pitome(scorer.model, ratio)
    batch = scorer.pixel_values(data.pictures[:6]["image"])
    with torch.inference_mode():
        vectors, tokens = scorer.encode_pictures(batch)
        similarity = vectors @ scorer.encode_captions(data.captions).T
        scores, _ = scorer.rerank(similarity, [tokens], data.captions, top=3)
        text = scorer.tokens([data.captions[int(similarity[2].argmax())]])
        pair = scorer.model(**text, pixel_values=batch[2:3], use_itm_head=True).itm_score[0, 1]
        towers = scorer.model(**text, pixel_values=batch[2:3], use_itm_head=False).itm_score[0, 0]
    best = similarity[2].argmax()
    assert towers.item() == pytest.approx(similarity[2, best].item(), abs=1e-5)
    assert scores[2, best].item() == pytest.approx((pair + similarity[2, best]).item(), abs=1e-5)
    assert ((scores > -100).sum(dim=1) >= 3).all() and ((scores > -100).sum(dim=0) >= 3).all()
