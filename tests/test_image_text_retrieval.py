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

import image_text_retrieval
import pytest
import torch
from datasets import Dataset, Features, Image, Sequence, Value
from example_runs import results, run_here
from PIL import Image as PILImage
from tiny_processors import image_processor, tokenizer
from transformers import (
    AutoProcessor,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    CLIPProcessor,
)
from zoo import vision_language

from optimum_pitome import apply_pitome
from optimum_pitome.evaluation.judges import RetrievalJudge
from optimum_pitome.evaluation.questions import encode_captions, rgb


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


def test_pictures_and_their_captions(pictures):
    images, captions = image_text_retrieval.load_pictures(pictures)
    assert images.column_names == ["image"] and len(images) == 12 and captions[0][0] == captions[1][0]
    assert len(image_text_retrieval.load_pictures(pictures, limit=5)[1]) == 5
    with pytest.raises(ValueError, match="a single data set without splits"):
        image_text_retrieval.load_pictures(pictures, "train")
    with pytest.raises(ValueError, match="column 'story' does not exist"):
        image_text_retrieval.load_pictures(pictures, caption_column="story")


@pytest.mark.parametrize("name", ["CLIPModel", "BlipForImageTextRetrieval"])
def test_the_script(name, pictures, tmp_path, monkeypatch, capsys):
    model = checkpoint(tmp_path / "model", name)
    arguments = ["--model", model, "--dataset", pictures, "--ratios", "0.9", "0.8", "--rerank", "4"]
    run_here(monkeypatch, image_text_retrieval, *arguments, "--batch-size", "5", "--output-dir", tmp_path / "out")
    first, second = results(tmp_path / "out")
    assert (first["num_tokens"], first["tokens_left"], second["tokens_left"]) == ([65], [45], [29])
    assert second["gflops_merged"] < first["gflops_merged"] < first["gflops_dense"]
    assert set(first["merged"]) >= {f"{way}_recall@10" for way in ("image_to_text", "text_to_image")}
    assert "12 pictures, 23 captions" in capsys.readouterr().out
    assert (tmp_path / "out" / "accuracy_against_flops.png").stat().st_size > 10_000


@pytest.mark.parametrize("ratio", [None, 0.8])
def test_reranking_scores_pairs_as_the_model_does(ratio, pictures, tmp_path):
    images, captions = image_text_retrieval.load_pictures(pictures, limit=6)
    path = checkpoint(tmp_path, "BlipForImageTextRetrieval")
    model = BlipForImageTextRetrieval.from_pretrained(path).eval()
    processor = AutoProcessor.from_pretrained(path)
    if ratio is not None:
        apply_pitome(model, ratio)
    judge = image_text_retrieval.BlipJudge(model, processor, top=3)
    pixels = processor.image_processor(rgb(images["image"]), return_tensors="pt")["pixel_values"]
    batch = encode_captions(model, processor, {"pixel_values": pixels, "captions": captions})
    texts = [text for of_picture in captions for text in of_picture]
    known = {text: texts.index(text) for text in texts}
    with torch.inference_mode():
        answers = judge.answer(batch)
        towers_alone = RetrievalJudge.similarity(judge, answers, known)
        scores = judge.similarity(answers, known)
        best = int(towers_alone[2].argmax())
        text = encode_captions(model, processor, {"captions": [[list(known)[best]]]})
        text = {name: text[name] for name in ("input_ids", "attention_mask")}
        pair = model(**text, pixel_values=pixels[2:3], use_itm_head=True).itm_score[0, 1]
        towers = model(**text, pixel_values=pixels[2:3], use_itm_head=False).itm_score[0, 0]
    assert towers.item() == pytest.approx(towers_alone[2, best].item(), abs=1e-5)
    assert scores[2, best].item() == pytest.approx((pair + towers_alone[2, best]).item(), abs=1e-5)
    assert ((scores > -100).sum(dim=1) >= 3).all() and ((scores > -100).sum(dim=0) >= 3).all()
    judge = image_text_retrieval.BlipJudge(model, processor, top=0)
    assert torch.equal(judge.similarity(answers, known), towers_alone)
