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

"""`optimum-cli pitome evaluate`, on pictures and texts that are made here."""

import functools
import json

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value, load_from_disk
from datasets import Image as ImageFeature
from export.helpers import quick_format
from families.llava_helpers import build
from huggingface_hub import ModelCard
from PIL import Image
from tiny_processors import image_processor
from tiny_processors import tokenizer as tiny_tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    CLIPModel,
    CLIPProcessor,
    DPTImageProcessorPil,
    PreTrainedTokenizerFast,
    RobertaForSequenceClassification,
)
from zoo import vision_language, vit_like
from zoo.llava import make_processor, picture

from optimum_pitome import PiToMeConfig, apply_pitome
from optimum_pitome.commands import evaluate as command
from optimum_pitome.commands.task_options import TASK_NAMES
from optimum_pitome.commands.tasks import TASKS
from optimum_pitome.evaluation.results import Evaluations
from optimum_pitome.export import runtimes


@pytest.fixture
def evaluate(in_workplace):
    return functools.partial(in_workplace, "evaluate")


@pytest.mark.slow  # the floor has no AutoImageProcessor without torchvision
def test_pictures_and_the_card(evaluate, tmp_path):
    card_file = tmp_path / "card.md"
    command = ["vit", "--task", "image-classification", "--dataset", "pets", "--ratio", "0.8"]
    text = evaluate(*command, "--model-card", card_file)
    assert "12 samples" in text and "same answer as dense" in text and "x fewer)" in text
    card = ModelCard.load(card_file)
    assert card.data.pipeline_tag == "image-classification" and card.data.base_model is None
    results = {(result.metric_type, result.metric_config): result for result in card.data.eval_results}
    accuracy = results["accuracy", "merged"]
    assert (accuracy.dataset_type, accuracy.dataset_split) == ("pets", "test")
    assert f"optimum-cli pitome evaluate {' '.join(command)}" in accuracy.dataset_args["command"]
    assert accuracy.dataset_args["command"] in card.text and "Image classification on pets / test" in card.text
    dense, merged = (f"{100 * results['accuracy', which].metric_value:.2f} [" for which in ("dense", "merged"))
    assert dense in card.text and merged in card.text and dense in text and merged in text
    # The same again replaces the results, other data adds to them, somebody's words stay.
    evaluate(*command, "--max-samples", 8, "--model-card", card_file)
    again = ModelCard.load(card_file).data.eval_results
    assert len(again) == len(results) and again[0].dataset_args["num_samples"] == 8
    evaluate(*command[:3], "--dataset", "pets/test", "--ratio", 0.8, "--model-card", card_file)
    assert len(ModelCard.load(card_file).data.eval_results) == 2 * len(results)
    card_file.write_text(card_file.read_text() + "\nSomebody's words.\n")
    evaluate(*command[:5], "--ratio", 0.7, "--model-card", card_file)
    card = ModelCard.load(card_file)
    assert len(card.data.eval_results) == len(results)  # of these settings
    assert card.text.endswith("<!-- pitome:end -->\n\nSomebody's words.\n") and '"ratio": 0.7' in card.text


def test_texts_and_the_card_of_a_recipe(evaluate, workplace, tmp_path):
    PiToMeConfig(ratio=0.6, base_model_name_or_path=str(workplace / "bert")).save_pretrained(tmp_path)
    evaluate(tmp_path, "--task", "text-classification", "--dataset", "reviews.csv", "--model-card", tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert "A recipe: settings without weights" in card.text and "Text classification on reviews / train" in card.text
    assert "AutoModelForSequenceClassification" in card.text and '"ratio": 0.6' in card.text
    values = {(r.metric_type, r.metric_config): r.metric_value for r in card.data.eval_results}
    assert values["gflops", "merged"] < values["gflops", "dense"]


def test_words_with_a_class_each(evaluate, workplace, tmp_path):
    names = {"id2label": {0: "O", 1: "NAME"}, "label2id": {"O": 0, "NAME": 1}}
    config = BertConfig.from_pretrained(workplace / "bert", **names)
    BertForTokenClassification(config).save_pretrained(tmp_path / "tagger")
    PreTrainedTokenizerFast.from_pretrained(workplace / "bert").save_pretrained(tmp_path / "tagger")
    texts = [["a", "b", "c"] * (1 + index) for index in range(6)]
    features = Features(tokens=Sequence(Value("string")), ner_tags=Sequence(ClassLabel(names=["O", "NAME"])))
    rows = {"tokens": texts, "ner_tags": [[index % 2 for index, _ in enumerate(text)] for text in texts]}
    Dataset.from_dict(rows, features).save_to_disk(tmp_path / "words")
    command = [tmp_path / "tagger", "--task", "token-classification", "--dataset", tmp_path / "words"]
    (found,) = json.loads(evaluate(*command, "--ratio", 0.6, "--batch-size", 4, "--json"))["evaluations"]
    assert found["num_samples"] == 6 and 0 < found["agreement"]["agreement"] < 1 and "accuracy" in found["dense"]


def test_pairs_of_texts_and_a_rewritten_checkpoint(evaluate, tmp_path):
    model = apply_pitome(BertForSequenceClassification.from_pretrained("bert"), {"ratio": 0.5, "layers": [0]})
    model.save_pretrained(tmp_path)
    PreTrainedTokenizerFast.from_pretrained("bert").save_pretrained(tmp_path)
    options = ["--task", "text-classification", "--dataset", "pairs", "--input-columns", "first", "second"]
    for option in ("--base-model", "--provenance"):
        assert f"{option} is for the card: name one" in evaluate(tmp_path, *options, option, "me/bert", code=2)
    options += ["--provenance", "From a drawer.", "--model-card", tmp_path, "--base-model"]
    assert "Repo id must use alphanumeric" in evaluate(tmp_path, *options, "not an id", code=2)
    assert "12 samples" in evaluate(tmp_path, *options, "me/bert", "--max-length", 16)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "me/bert" and "\n\nFrom a drawer.\n\n## Evaluation" in card.text
    length = card.text.partition("pitome_summary(model, num_tokens=")[2].partition(")")[0]
    assert f"    0       {int(length)} -> " in card.text  # the table is for a length that was met
    settings = json.loads(card.text.partition("```json")[2].partition("```")[0])
    assert settings["layers"] == [0] and "pairs, 12 samples" in card.text


@pytest.fixture(scope="module")
def multimodal(workplace):
    """`llava` with `questions`, `clip` with `captioned`."""
    build().save_pretrained(workplace / "llava")
    make_processor().save_pretrained(workplace / "llava")
    pictures = [picture(seed) for seed in range(6)]
    rows = {"image": pictures, "question": [f"w{i} w20" for i in range(6)], "answers": [["w5", "w6"]] * 6}
    texts = Sequence(Value("string"))
    features = Features(image=ImageFeature(), question=Value("string"), answers=texts)
    Dataset.from_dict(rows, features).save_to_disk(workplace / "questions")
    next(case for case in vision_language.CASES if case.id == "CLIPModel").build().save_pretrained(workplace / "clip")
    CLIPProcessor(image_processor(), tiny_tokenizer()).save_pretrained(workplace / "clip")
    captions = [["a cat", "the cat"], ["a cat"], ["red frog"], ["blue frog"], ["the sign"], ["a letter", "a letter"]]
    rows = {"image": pictures, "captions": captions, "note": ["x"] * 6}
    features = Features(image=ImageFeature(), captions=texts, note=Value("string"))
    Dataset.from_dict(rows, features).save_to_disk(workplace / "captioned")


@pytest.mark.slow  # the floor has no image processors without torchvision
def test_questions_and_the_card(evaluate, multimodal, tmp_path):
    command = ["llava", "--task", "visual-question-answering", "--dataset", "questions", "--ratio", 0.8]
    text = evaluate(*command, "--instruction", "w9", "--max-new-tokens", 2, "--model-card", tmp_path)
    assert "6 samples" in text and "VQA accuracy, %" in text
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == "image-text-to-text" and "AutoModelForImageTextToText" in card.text
    kinds = {(result.metric_type, result.metric_config) for result in card.data.eval_results}
    assert {("vqa_accuracy", "dense"), ("vqa_accuracy", "merged"), ("speedup", "merged")} <= kinds
    assert "Visual question answering on questions, 6 samples" in card.text and "| VQA accuracy, % |" in card.text
    assert "--max-new-tokens 0: expected at least 1" in evaluate(*command, "--max-new-tokens", 0, code=2)
    error = evaluate(*command, "--input-columns", "image", code=2)
    assert "expected the column of pictures, then of questions" in error


@pytest.mark.slow  # the floor has no image processors without torchvision
def test_masks_and_the_card(evaluate, tmp_path):
    model = next(case for case in vit_like.CASES if case.id == "DPTForSemanticSegmentation").build()
    model.save_pretrained(tmp_path / "dpt")
    sizes = {"size": {"height": 32, "width": 32}, "keep_aspect_ratio": False}
    DPTImageProcessorPil(**sizes).save_pretrained(tmp_path / "dpt")
    masks = [Image.new("L", (50, 40), seed % model.config.num_labels) for seed in range(6)]
    columns = {"image": [picture(seed).resize((50, 40)) for seed in range(6)], "mask": masks}
    data = Dataset.from_dict(columns, Features(image=ImageFeature(), mask=ImageFeature()))
    data.save_to_disk(tmp_path / "masks")
    command = [tmp_path / "dpt", "--task", "semantic-segmentation", "--dataset", tmp_path / "masks", "--ratio", 0.8]
    text = evaluate(*command, "--model-card", tmp_path / "card.md")
    assert "6 samples" in text and "mean IoU, %" in text and "pixels as dense, %" in text
    card = ModelCard.load(tmp_path / "card.md")
    assert card.data.pipeline_tag == "image-segmentation"
    assert "Semantic segmentation on masks, 6 samples" in card.text and "| Mean IoU, % |" in card.text
    data.rename_columns({"image": "photo", "mask": "annotation"}).save_to_disk(tmp_path / "named")
    found = (evaluate(*command[:4], tmp_path / name, "--ratio", 0.8, "--json") for name in ("masks", "named"))
    one, other = (json.loads(text)["evaluations"][0] for text in found)
    assert one["merged"] == other["merged"] and "mean_iou" in one["merged"]
    data.select_columns("image").save_to_disk(tmp_path / "none")
    error = evaluate(*command[:4], tmp_path / "none", "--ratio", 0.8, code=2)
    assert "there is no obvious mask column: name it (--label-column)" in error


@pytest.mark.slow  # the floor has no image processors without torchvision
def test_captioned_pictures_and_the_card(evaluate, multimodal, tmp_path):
    command = ["clip", "--task", "image-text-retrieval", "--ratio", 0.8]
    text = evaluate(*command, "--dataset", "captioned", "--model-card", tmp_path, "--base-model", "me/vit", "me/bert")
    assert "6 samples" in text and "image to text recall@1, %" in text and "text to image recall@5, %" in text
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == ["me/vit", "me/bert"]
    assert "| Text to image recall@5, % |" in card.text and "Image text retrieval on captioned" in card.text
    # One row per caption is the same data set.
    rows = load_from_disk("captioned").flatten_indices()
    rows = [{"image": row["image"], "caption": text} for row in rows for text in dict.fromkeys(row["captions"])]
    Dataset.from_list(rows, Features(image=ImageFeature(), caption=Value("string"))).save_to_disk(tmp_path / "rows")
    found = (evaluate(*command, "--dataset", data, "--json") for data in ("captioned", tmp_path / "rows"))
    one, other = (json.loads(text)["evaluations"][0] for text in found)
    assert one["merged"] and all(one[name] == other[name] for name in ("dense", "merged", "difference", "agreement"))
    # A tower that was rewritten by itself is evaluated as it is, but a card is about the whole model.
    model = CLIPModel.from_pretrained("clip")
    apply_pitome(model.vision_model, 0.8)
    model.save_pretrained(tmp_path / "tower")
    CLIPProcessor.from_pretrained("clip").save_pretrained(tmp_path / "tower")
    tower = [tmp_path / "tower", *command[1:3], "--dataset", "captioned"]
    assert "6 samples" in evaluate(*tower)
    evaluate(*tower, "--model-card", tmp_path / "t.md")
    assert "Of parts of the model" in (tmp_path / "t.md").read_text()
    error = evaluate(*command, "--dataset", "questions", code=2)
    assert "there is no obvious caption column: name it (--label-column)" in error
    error = evaluate("vit", *command[1:], "--dataset", "captioned", code=2)
    assert "A ViTModel has no image and text embeddings to compare" in error


@pytest.mark.parametrize("model_class", [BertForSequenceClassification, RobertaForSequenceClassification])
def test_a_folder_without_a_tokenizer(in_workplace, tmp_path, model_class):
    """transformers makes a tokenizer of the configuration, which reads every word as unknown, or leaves it out."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model_class(model_class.config_class(vocab_size=40, num_labels=2, **sizes)).save_pretrained(tmp_path)
    data = ["--dataset", "reviews.csv", "--input-columns", "text", "--ratio", 0.8]
    for name, task in (("evaluate", ["--task", "feature-extraction"]), ("spectrum", [])):
        error = in_workplace(name, tmp_path, *data, *task, code=2)
        assert f"{tmp_path}: its tokenizer knows no words (of 5 entries all are special tokens)" in error


def test_the_card_says_how_to_load_what_was_evaluated(evaluate, tmp_path):
    """With settings in `config.json`, with others, and with none there."""
    apply_pitome(BertForSequenceClassification.from_pretrained("bert"), 0.6).save_pretrained(tmp_path / "model")
    PreTrainedTokenizerFast.from_pretrained("bert").save_pretrained(tmp_path / "model")
    options = ["--task", "text-classification", "--dataset", "reviews.csv", "--model-card", tmp_path / "card.md"]
    for model, given, expected in (
        (tmp_path / "model", [], '("model")                # merges tokens'),
        (tmp_path / "model", ["--ratio", 0.5], '("model", pitome=0.5)  # merges tokens'),
        ("bert", ["--ratio", 0.5, "--layers", 0], "(\"bert\", pitome={'ratio': 0.5, 'layers': [0]})  # merges tokens"),
    ):
        evaluate(model, *given, *options)
        text = (tmp_path / "card.md").read_text()
        assert expected in text and ("they have to be passed" in text) == bool(given)
        assert str(tmp_path) not in text and "95 % intervals in brackets" in text and "Times are" in text


def test_questions_are_padded_on_the_left(multimodal, evaluate, monkeypatch, tmp_path):
    """Prompts are padded on the left, whatever the processor was saved with, since answers follow their questions."""
    processor = make_processor()
    processor.tokenizer.padding_side = "right"
    build().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    rows = {"image": [picture(0)] * 2, "question": ["w5", "w5 w6 w7"], "answers": ["w5", "w6"]}
    features = Features(image=ImageFeature(), question=Value("string"), answers=Value("string"))
    Dataset.from_dict(rows, features).save_to_disk(tmp_path / "questions")
    seen = []
    monkeypatch.setattr(
        "optimum_pitome.commands.evaluate.evaluate",
        lambda model, data, judge, **options: Evaluations(seen.extend(data) or ()),
    )
    evaluate(tmp_path, "--task", "visual-question-answering", "--dataset", tmp_path / "questions", "--json")
    (batch,) = seen
    padded = batch["attention_mask"].tolist()
    assert padded[0][0] == 0 and padded[0][-1] == padded[1][0] == 1 and batch["answers"] == [["w5"], ["w6"]]


def test_several_settings(evaluate, tmp_path):
    command = ["bert", "--task", "text-classification", "--dataset", "reviews.csv"]
    plot = tmp_path / "found.png"
    settings = ["--ratios", 0.9, "0.9,0.5", "--settings", '{"ratio": 0.8, "energy": "paper"}', "--layers", "0,1"]
    written = json.loads(evaluate(*command, *settings, "--json", "--plot", plot))["evaluations"]
    assert [one["name"] for one in written] == ["0.9", "[0.9, 0.5]", "0.8, energy=paper"]
    assert all(one["settings"]["layers"] == [0, 1] for one in written)
    assert written[0]["source"]["dataset"] == "reviews" and Image.open(plot).width > 500
    error = evaluate(*command, *settings, "--model-card", tmp_path, code=2)
    assert "a card is about one of the settings, and these are 3" in error
    evaluate(*command, "--ratios", 0.8, "--model-card", tmp_path / "card.md")
    assert '"ratio": 0.8' in (tmp_path / "card.md").read_text()
    error = evaluate(*command, "--ratio", 0.9, "--ratios", 0.8, 0.7, code=2)
    assert "--ratios and --ratio both say ratio" in error
    error = evaluate(*command, "--ratio", 0.9, "--flops-ratios", 1.5, code=2)
    assert "--flops-ratios and --ratio both say how much merges" in error
    error = evaluate(*command, "--pitome-config", '{"ratio": 0.9}', "--flops-ratios", 1.5, code=2)
    assert "--flops-ratios and --pitome-config both say how much merges" in error
    assert "ratio=0.2 is out of range" in evaluate(*command, "--ratios", 0.9, 0.2, code=2)


def test_a_ratio_that_is_meant_as_a_budget(evaluate):
    command = ["bert", "--task", "text-classification", "--dataset", "reviews.csv"]
    for option, meant in (("--ratio", "--flops-ratio 1.5, so"), ("--ratios", "--flops-ratios 1.5, so")):
        assert f"Did you mean {meant} many times fewer" in evaluate(*command, option, 1.5, code=2)
    assert "Did you mean {'flops_ratio': 1.5}" in evaluate(*command, "--settings", '{"ratio": 1.5}', code=2)


def test_the_command_offers_every_task():
    assert tuple(TASKS) == TASK_NAMES


def test_a_task_that_is_not_the_models(multimodal, evaluate):
    error = evaluate("bert", "--task", "visual-question-answering", "--dataset", "questions", code=2)
    assert "AutoModelForImageTextToText knows no model of type 'bert'. Name the task" in error


@pytest.mark.parametrize(
    "options, message",
    [
        (["--dataset", "reviews.csv", "--split", "nope"], "split 'nope': expected one of train"),
        (["--dataset", "pairs"], "first, second could each be the text column: name it (--input-columns)"),
        (["--dataset", "pairs", "--split", "test"], "a single data set without splits"),
        (["--dataset", "pairs", "--label-column", "x"], "column 'x' does not exist: expected one of first, second"),
        (["--dataset", "bert/vocab.bin"], "expected a file that ends in .csv"),
        (["--dataset", "reviews.csv", "--ratio", "0.2"], "ratio=0.2 is out of range"),
        (["--dataset", "reviews.csv", "--dtype", "float7"], "--dtype float7: expected auto"),
        (["--dataset", "reviews.csv", "--dtype", "int8"], "bfloat16 or float16. For int8, see --quantize int8"),
        (["--dataset", "reviews.csv", "--device", "nowhere"], "--device nowhere"),
        (["--dataset", "reviews.csv", "--max-samples", "0"], "--max-samples 0: expected at least 1"),
        (["--dataset", "reviews.csv", "--label-column", "text"], ") are not those of the model (bad, good)"),
    ],
)
def test_errors(evaluate, workplace, options, message):
    (workplace / "bert" / "vocab.bin").touch()
    error = evaluate("bert", "--task", "text-classification", *options, code=2)
    assert message in error and "Traceback" not in error


def test_embeddings(evaluate, optimum_cli):
    text = evaluate("bert", "--task", "feature-extraction", "--dataset", "reviews.csv", "--input-columns", "text",
                    "--flops-ratios", 1.02, 1.05)  # fmt: skip
    assert "10 nearest kept" in text and "flops_ratio=1.02" in text and "12 samples" in text
    error = evaluate("bert", "--task", "feature-extraction", "--dataset", "pairs", code=2)
    assert "first, second could each be the text column" in error


@pytest.mark.parametrize("recipe", [False, True], ids=["model", "recipe"])
def test_data_that_the_model_does_not_read(evaluate, monkeypatch, workplace, tmp_path, recipe):
    """Refused before weights are read."""
    monkeypatch.setattr(TASKS["feature-extraction"].auto_class, "from_pretrained", None)

    def named(model):
        if recipe:
            PiToMeConfig(0.8, base_model_name_or_path=str(workplace / model)).save_pretrained(tmp_path / model)
        return tmp_path / model if recipe else model

    options = ("--task", "feature-extraction", "--flops-ratio", 1.02, "--dataset")
    assert "there is no column of pictures: text" in evaluate(named("vit"), *options, "reviews.csv", code=2)
    assert "there is no obvious text column" in evaluate(named("bert"), *options, "pets", code=2)
    error = evaluate(named("bert"), *options, "pets", "--input-columns", "image", code=2)
    assert "column image holds pictures, and texts are read here. Name a column of texts." in error


def test_a_head_that_no_checkpoint_has_is_refused(evaluate, workplace, tmp_path):
    """Its answers would be those of random weights."""
    BertModel.from_pretrained(workplace / "bert").save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((workplace / "bert" / file).read_bytes())
    data = ("--dataset", "reviews.csv", "--input-columns", "text", "--ratio", 0.9)
    error = evaluate(tmp_path, "--task", "text-classification", *data, code=2)
    assert "was saved as a BertModel: the head of a BertForSequenceClassification of it would be random" in error
    assert "10 nearest kept" in evaluate(tmp_path, "--task", "feature-extraction", *data)


@pytest.mark.slow  # the floor has no image processors without torchvision
def test_embeddings_of_one_of_two_towers(evaluate, multimodal, workplace):
    """The column says which tower is meant."""
    command = ["clip", "--task", "feature-extraction", "--ratio", 0.7]
    (found,) = json.loads(evaluate(*command, "--dataset", "captioned", "--json"))["evaluations"]
    assert (found["num_samples"], len(found["num_tokens"])) == (6, 1) and found["kept"]["centred_cosine"] < 1
    (workplace / "notes.txt").write_text("\n".join(["a cat", "red frog in the picture", "how many", "the sign"]))
    error = evaluate(*command, "--dataset", "notes.txt", code=2)
    assert "column 'text' is for the text tower of this CLIPModel, which stays dense" in error


def test_other_runtimes(evaluate, optimum_cli, workplace, monkeypatch, tmp_path):
    """With a format that is quick to write. int8 is calibrated on what is not evaluated."""
    calibrated = []
    monkeypatch.setitem(runtimes.WRITERS, "openvino", quick_format())
    monkeypatch.setitem(runtimes.QUANTIZERS, "openvino", lambda path, batches: calibrated.append(batches))
    for module in (command, runtimes):
        monkeypatch.setattr(module, "check_request", lambda *args: None)
    options = ["bert", "--task", "text-classification", "--dataset", "reviews.csv", "--ratio", 0.6]
    options += ["--runtime", "pytorch", "openvino", "--quantize"]
    found = json.loads(evaluate(*options, "none", "--json"))["evaluations"]
    assert "how far it is" in optimum_cli.errors[-1]  # what exporters print
    assert [one["name"] for one in found] == ["0.6", "dense, openvino", "0.6, openvino"] and not calibrated
    assert "dense, openvino" in evaluate(*options, "none", "--quiet") and optimum_cli.errors[-1] == ""
    assert found[1]["agreement"]["agreement"] == 1 and found[2]["agreement"] == found[0]["agreement"]
    monkeypatch.setattr(runtimes, "quantized", lambda model: model)
    error = evaluate(*options, "int8", code=2)
    assert "calibrated on samples that are not evaluated, and there are none. Name their split" in error
    options = [name for name in options if name != "pytorch"]
    found = json.loads(evaluate(*options, "int8", "--max-samples", 8, "--json"))["evaluations"]
    assert [one["quantize"] for one in found] == [None, "int8", "int8"] and found[1]["runtime"] == "openvino"
    ids = [batch["input_ids"] for batch in calibrated[0]]
    assert len(calibrated) == 2 and sum(map(len, ids)) == 4 and "labels" not in calibrated[0][0]
    for given, message in (
        (["--model-card", tmp_path], "--model-card: a card is about the model in PyTorch"),
        (["--device", "cuda"], "--device cuda: exported files are evaluated with cpu alone"),
        (["--dtype", "bfloat16"], "--dtype bfloat16: exported files are evaluated with float32 alone"),
        (["--max-samples", 8, "--calibration-split", "nope"], "split 'nope': expected one of train"),
    ):
        assert message in evaluate(*options, "int8", *given, code=2)
