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

"""transformers' pipelines for every class that has one: pictures, clips and sounds. (Those of texts are in
test_text_pipelines.py, those that write in test_llava_generate.py, test_short_prompts.py and
test_vision_language_pipelines.py.)"""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_processors import tokenizer
from transformers import pipeline
from transformers.pipelines import SUPPORTED_TASKS
from zoo import all_cases

from optimum_pitome import apply_pitome


#: Tasks with a head of their own: every class.
HEADS = (
    "image-classification",
    "depth-estimation",
    "object-detection",
    "image-segmentation",
    "zero-shot-image-classification",
    "zero-shot-object-detection",
    "audio-classification",
)


SIZE = {"height": 32, "width": 32}
#: Model type → its image processor, where those of classifiers do not do.
PROCESSORS = {
    "siglip2": ("Siglip2ImageProcessor", {"patch_size": 4, "max_num_patches": 64}),
    "yolos": ("YolosImageProcessor", {"size": SIZE}),
    "owlvit": ("OwlViTImageProcessor", {"size": SIZE, "crop_size": SIZE}),
    "owlv2": ("Owlv2ImageProcessor", {"size": SIZE}),
    "depth_pro": ("DPTImageProcessor", {"size": {"height": 64, "width": 64}}),
    "dpt": ("DPTImageProcessor", {"size": SIZE}),
    "depth_anything": ("DPTImageProcessor", {"size": SIZE}),
    "prompt_depth_anything": ("DPTImageProcessor", {"size": SIZE}),
    "eomt": ("EomtImageProcessor", {"size": {"shortest_edge": 32, "longest_edge": 32}, "do_pad": True}),
}
WORDS = {"candidate_labels": ["cat", "dog"]}
CALLED_WITH = {
    "zero-shot-image-classification": {**WORDS, "hypothesis_template": "a photo of {}"},
    "zero-shot-object-detection": WORDS,
    "image-segmentation": {"threshold": 0.0, "mask_threshold": 0.0},
    "object-detection": {"threshold": 0.0},
}


def classes_of(task):
    for auto_class in SUPPORTED_TASKS[task]["pt"]:
        for found in auto_class._model_mapping.values():
            yield from found if isinstance(found, (tuple, list)) else (found,)


def belongs(case, task):
    # A model for any kind of segmentation has no mapping among the task's own.
    return case.model_class in set(classes_of(task)) or (task, case.id) == ("image-segmentation", EOMT)


EOMT = "EomtForUniversalSegmentation"
PAIRS = [
    pytest.param(task, case, id=f"{task}-{case.id}") for task in HEADS for case in all_cases() if belongs(case, task)
]


def processors_for(task, case):
    model_type = case.config().model_type
    if task == "audio-classification":
        if model_type == "audio-spectrogram-transformer":
            return {"feature_extractor": transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=24)}
        if model_type == "whisper":  # two features for each frame of the encoder
            config = case.config()
            hop = 16_000 // (2 * config.max_source_positions)
            settings = {"feature_size": config.num_mel_bins, "chunk_length": 1, "hop_length": hop}
            return {"feature_extractor": transformers.WhisperFeatureExtractor(**settings)}
        return {"feature_extractor": transformers.Wav2Vec2FeatureExtractor()}
    name, settings = PROCESSORS.get(model_type, ("ViTImageProcessor", {"size": SIZE}))
    found = {"image_processor": getattr(transformers, name)(**settings)}
    return {**found, "tokenizer": tokenizer()} if task.startswith("zero-shot") else found


def what_is_read(task):
    if task == "audio-classification":
        return np.sin(np.linspace(0, 900, 4000)).astype(np.float32)
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))


def flat(answer):
    """The numbers in what a pipeline returns."""
    if isinstance(answer, dict):
        return [number for key in sorted(answer) for number in flat(answer[key])]
    if isinstance(answer, (list, tuple)):
        return [number for item in answer for number in flat(item)]
    if isinstance(answer, Image.Image):
        return flat(np.asarray(answer, dtype=np.float64).ravel().tolist())
    if isinstance(answer, torch.Tensor):
        return answer.double().flatten().tolist()
    return [float(answer)] if isinstance(answer, (int, float)) else []


@pytest.mark.parametrize(("task", "case"), PAIRS)
def test_pipelines(task, case):
    model = case.build()
    pipe = pipeline(task, model=model, **processors_for(task, case))
    called = CALLED_WITH.get(task, {})
    dense = flat(pipe(what_is_read(task), **called))
    apply_pitome(model, 1.0)
    assert flat(pipe(what_is_read(task), **called)) == pytest.approx(dense, abs=case.tolerance)
    apply_pitome(model, 0.7)
    merged = flat(pipe(what_is_read(task), **called))
    assert merged and np.isfinite(merged).all()
    assert merged != dense or task == "image-segmentation"  # where all pixels get one label, dense and merged
