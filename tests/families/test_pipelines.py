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

import functools
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_processors import tokenizer
from transformers import pipeline
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.pipelines import SUPPORTED_TASKS
from zoo import all_cases

from optimum_pitome import apply_pitome


#: Tasks with a head of their own: every class.
HEADS = (
    "image-classification",
    "image-feature-extraction",
    "video-classification",
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
    "video-classification": {"num_frames": 4},
}


@functools.cache
def classes_of(task):
    if task == "image-feature-extraction":  # any base model will do
        return {case.model_class for case in all_cases() if is_encoder_of_pictures(case)}
    mapped = [found for auto_class in SUPPORTED_TASKS[task]["pt"] for found in auto_class._model_mapping.values()]
    each = (found if isinstance(found, (tuple, list)) else (found,) for found in mapped)
    return {model_class for classes in each for model_class in classes}


def is_encoder_of_pictures(case):
    """By names: some of the mapped classes are missing in some releases of transformers."""
    if case.model_class.__name__ not in MODEL_MAPPING_NAMES.values():
        return False
    return set(case.inputs(1)) == {"pixel_values"} and not hasattr(case.config(), "num_frames")


def belongs(case, task):
    # A model for any kind of segmentation has no mapping among the task's own.
    return case.model_class in classes_of(task) or (task, case.id) == ("image-segmentation", EOMT)


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
    if task == "video-classification":
        return {"video_processor": SmallClips(case)}
    name, settings = PROCESSORS.get(model_type, ("ViTImageProcessor", {"size": SIZE}))
    found = {"image_processor": getattr(transformers, name)(**settings)}
    return {**found, "tokenizer": tokenizer()} if task.startswith("zero-shot") else found


class SmallClips:
    """Reads a file and makes 16 × 16 pixels of each frame. (Those of transformers need torchvision.)"""

    def __init__(self, case):
        (self.name,) = case.inputs(1)

    def __call__(self, file, num_frames, **kwargs):
        av = pytest.importorskip("av")
        with av.open(file) as container:
            frames = [frame.to_image().resize((16, 16)) for frame in container.decode(video=0)]
        pixels = torch.stack([torch.from_numpy(np.array(frame)).permute(2, 0, 1) for frame in frames[:num_frames]])
        return transformers.BatchFeature({self.name: pixels[None] / 127.5 - 1})


@pytest.fixture
def clip(tmp_path):
    """A file with a few frames of noise."""
    av = pytest.importorskip("av", reason="clips are read with PyAV")
    noise = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for frame in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return str(tmp_path / "clip.mp4")


def what_is_read(task, request):
    if task == "video-classification":
        return request.getfixturevalue("clip")
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
def test_pipelines(task, case, request):
    model, read = case.build(), what_is_read(task, request)
    pipe = pipeline(task, model=model, **processors_for(task, case))
    called = CALLED_WITH.get(task, {})
    dense = flat(pipe(read, **called))
    apply_pitome(model, 1.0)
    assert flat(pipe(read, **called)) == pytest.approx(dense, abs=case.tolerance)
    apply_pitome(model, 0.7)
    merged = flat(pipe(read, **called))
    assert merged and np.isfinite(merged).all()
    if task not in ("object-detection", "zero-shot-object-detection", "image-segmentation"):  # as many as it finds
        assert len(merged) == len(dense)
    assert merged != dense or task == "image-segmentation"  # where all pixels get one label, dense and merged


LETTERS = [case for case in all_cases() if case.id.endswith("ForCTC")]


@pytest.mark.skipif(not LETTERS, reason="this transformers passes the layers of Wav2Vec2 no keyword arguments")
@pytest.mark.parametrize("case", LETTERS, ids=lambda case: case.id)
def test_speech_recognition_by_letters(case, tmp_path):
    """A letter for each frame: all frames come back, so that letters and their times are for the whole sound."""
    names = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmno"]
    (tmp_path / "vocab.json").write_text(json.dumps({name: index for index, name in enumerate(names)}))
    letters = transformers.Wav2Vec2CTCTokenizer(tmp_path / "vocab.json")
    model, frames = case.build(), []
    model.register_forward_hook(lambda module, args, output: frames.append(output.logits.shape))
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    task = "automatic-speech-recognition"
    pipe = pipeline(task, model=model, feature_extractor=extractor, tokenizer=letters)
    dense = pipe(what_is_read("audio-classification", None), return_timestamps="char")
    apply_pitome(model, 0.5)
    merged = pipe(what_is_read("audio-classification", None), return_timestamps="char")
    assert frames[0] == frames[1] and frames[0][1] > 400
    assert merged["text"] and merged["text"] != dense["text"]
    assert merged["chunks"][-1]["timestamp"][1] <= 4000 / 16_000
    with pytest.raises(ValueError, match="unmerge"):
        apply_pitome(model, {"ratio": 0.7, "unmerge": False})
