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

"""Pipelines and generation on rewritten vision-language models. (transformers 5 has no visual-question-answering and
image-to-text pipelines any more: image-text-to-text took their place.)"""

import pytest
import torch
import transformers
from PIL import Image
from tiny_processors import image_processor, tokenizer
from transformers import BlipImageProcessor, BlipProcessor, CLIPImageProcessor, SiglipImageProcessor, pipeline
from zoo import vision_language

from optimum_pitome import apply_pitome, pitome_disabled


def build(name, ratio):
    case = next(case for case in vision_language.CASES if case.id == name)
    model = case.build()
    return model if ratio is None else apply_pitome(model, ratio), case.inputs(2)


@pytest.fixture
def pictures():
    return [Image.effect_noise((40, 40), spread).convert("RGB") for spread in (20, 60, 100)]


@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel"])
def test_zero_shot_image_classification(name, pictures):
    siglip = name == "SiglipModel"
    processor = (
        SiglipImageProcessor(size={"height": 32, "width": 32}) if siglip else image_processor(CLIPImageProcessor)
    )
    words = {"candidate_labels": ["cat", "dog"], "hypothesis_template": "a photo of this {}"}

    def answers(ratio, batch_size=2):
        model, _ = build(name, ratio)
        pipe = pipeline(
            "zero-shot-image-classification", model=model, tokenizer=tokenizer(), image_processor=processor
        )
        return [
            {row["label"]: row["score"] for row in rows} for rows in pipe(pictures, **words, batch_size=batch_size)
        ]

    dense, same, merged, single = answers(None), answers(1.0), answers(0.8), answers(0.8, batch_size=1)
    assert same == dense and merged != dense
    for batched, alone in zip(merged, single, strict=True):
        assert batched == pytest.approx(alone, abs=1e-5)


def test_image_text_to_text(pictures):
    processor = BlipProcessor(image_processor(BlipImageProcessor), tokenizer())

    def answers(ratio, batch_size=2):
        model, _ = build("BlipForConditionalGeneration", ratio)
        pipe = pipeline("image-text-to-text", model=model, processor=processor)
        rows = pipe(images=pictures, text=["a photo of"] * 3, batch_size=batch_size, max_new_tokens=4)
        return [row["generated_text"] for row in rows]

    assert answers(1.0) == answers(None)
    assert answers(0.8) == answers(0.8, batch_size=1) and len(answers(0.8)) == 3


def test_visual_question_answering():
    """What the removed pipeline did: the processor's inputs, generate, decode."""
    model, inputs = build("BlipForQuestionAnswering", 0.8)
    inputs.pop("decoder_input_ids")
    answers = tokenizer().batch_decode(model.generate(**inputs, max_new_tokens=4), skip_special_tokens=True)
    assert len(answers) == 2


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(
    "name",
    [
        "BlipForConditionalGeneration",
        "BlipForQuestionAnswering",
        "Blip2ForConditionalGeneration",
        "InstructBlipForConditionalGeneration",
        "VisionEncoderDecoderModel",
    ],
)
def test_generation(name, num_beams):
    model, inputs = build(name, None)
    inputs.pop("decoder_input_ids", None)
    settings = {"num_beams": num_beams, "max_new_tokens": 5, "output_scores": True, "return_dict_in_generate": True}

    def generate(inputs):
        output = model.generate(**inputs, **settings)
        return output.sequences, torch.stack([scores[: len(scores)] for scores in output.scores])

    dense, dense_scores = generate(inputs)
    apply_pitome(model, 1.0)
    assert torch.equal(generate(inputs)[0], dense)
    apply_pitome(model, 0.8)
    merged, scores = generate(inputs)
    assert merged.shape[0] == 2 and not torch.allclose(scores[0], dense_scores[0])
    alone, _ = generate({key: value[1:] for key, value in inputs.items()})
    length = min(alone.shape[1], merged.shape[1])
    assert torch.equal(merged[1:, :length], alone[:, :length])
    with pitome_disabled(model):
        assert torch.equal(generate(inputs)[0], dense)


def test_the_pipelines_that_transformers_removed_are_gone():
    """When one comes back, it belongs into this file."""
    tasks = transformers.pipelines.SUPPORTED_TASKS
    assert "visual-question-answering" not in tasks and "image-to-text" not in tasks
