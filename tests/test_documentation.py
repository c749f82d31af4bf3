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

"""README and docs/: every link leads somewhere, every page is found from the index, and the examples run."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from markdown_it import MarkdownIt
from PIL import Image
from tiny_processors import tokenizer
from torch.utils.data import Dataset
from transformers import BertModel, TrainingArguments, ViTConfig, ViTForImageClassification, ViTImageProcessorPil
from zoo.llava import NUM_PATCHES, make_processor, picture
from zoo.text import bert_config

import optimum_pitome
from optimum_pitome import apply_pitome


ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS, *sorted((ROOT / ".github").rglob("*.md")), ROOT / "llms.txt"]
#: Lists that are looked things up in, not read.
GENERATED = ("messages.md", "reference.md")
PARSER = MarkdownIt("commonmark").enable("table")


def tokens_of(page):
    """All tokens of a page, those inside paragraphs and cells too."""
    for token in PARSER.parse(page.read_text(encoding="utf-8")):
        yield token
        yield from token.children or ()


def anchors_of(page):
    """The anchors that GitHub gives the headings."""
    tokens, found = PARSER.parse(page.read_text(encoding="utf-8")), []
    for opening, inline in zip(tokens, tokens[1:]):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children)
            anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            repeated = sum(re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", other) is not None for other in found)
            found.append(f"{anchor}-{repeated}" if repeated else anchor)
    return found


def links_of(page):
    for token in tokens_of(page):
        target = token.attrGet("href") or token.attrGet("src")
        if target and not re.match(r"\w+:", target):
            yield str(target)


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def code_of(page, language="python"):
    return [token.content for token in tokens_of(page) if token.type == "fence" and token.info == language]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    broken = []
    for link in links_of(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        inside = target.is_relative_to(ROOT.resolve()) or target == page
        if not inside or not target.exists() or anchor and anchor not in anchors_of(target):
            broken.append(link)
    assert not broken


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One `name`: two\n\n# Three\n\n# Three\n\n[a](b.md#c) ![d](e.png) <https://example.org>\n```\n[x](y)\n```\n"
    )
    assert list(links_of(page)) == ["b.md#c", "e.png"] and anchors_of(page) == ["one-name-two", "three", "three-1"]


def test_every_page_is_found():
    assert {Path(link).name for link in links_of(ROOT / "docs" / "README.md")} == {page.name for page in DOCS}
    assert {"docs/README.md", *(f"docs/{page.name}" for page in DOCS)} <= {
        link.partition("#")[0] for link in links_of(ROOT / "llms.txt")
    }


def test_pages_stay_short():
    pages = [ROOT / "README.md", *(page for page in DOCS if page.name not in GENERATED)]
    lines = {name_of(page): len(page.read_text(encoding="utf-8").splitlines()) for page in pages}
    assert lines.pop("README.md") < 150 and max(lines.values()) <= 250, lines


def test_the_readme_lists_the_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- `(\w+)`: ", text[text.index("## Commands") : text.index("## Supported")], re.MULTILINE)
    register = importlib.import_module("optimum.commands.register.register_pitome")
    assert sorted(listed) == sorted(command.name for command in register.PiToMeCommand.SUBCOMMANDS)


@pytest.mark.parametrize("page", [page for page in PAGES if code_of(page)], ids=name_of)
def test_the_examples_are_python(page):
    for block in code_of(page):
        compile(block, str(page), "exec")


def save(path, class_name):
    """A tiny model of a class, with random weights. Returns it."""
    model = next(case for case in zoo.all_cases() if case.model_class.__name__ == class_name).build()
    model.save_pretrained(path)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny ViT and a tiny LLaVA, with their processors."""
    vit, llava = tmp_path_factory.mktemp("vit"), tmp_path_factory.mktemp("llava")
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 256}
    ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=2)).save_pretrained(vit)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(vit)
    save(llava, "LlavaForConditionalGeneration")
    make_processor().save_pretrained(llava)
    return {"path": str(vit), "llava": str(llava)}


class Pictures(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"pixel_values": torch.randn(3, 32, 32), "labels": torch.tensor(index % 2)}


def run(page, names, replaced=()):
    """Runs the examples of a page one after the other, with `names`; what needs the Hub is replaced."""
    code = "\n".join(code_of(ROOT / page))
    for old, new in dict(replaced).items():
        assert old in code
        code = code.replace(old, new)
    exec(compile(code, page, "exec"), names)
    return names


@pytest.mark.parametrize("page", [page for page in PAGES if code_of(page)], ids=name_of)
def test_a_test_runs_the_examples(page):
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    assert re.search(rf"[\"'/]{re.escape(page.name)}[\"']", tests), f"add a test that runs the examples of {page.name}"


def test_the_readme_runs(folders):
    found = run("README.md", {}, {"google/vit-base-patch16-224": folders["path"]})
    assert type(found["model"]) is ViTForImageClassification and found["model"].config.pitome["ratio"] == 0.9


def test_the_page_on_means_runs(folders):
    start = {"model = ": "from transformers import AutoModel; model = "}
    found = run("docs/means.md", {"folder": folders["path"]}, start)
    assert found["model"].config.pitome["keep_norm"] == 0.5  # of the last example


# The floor's AutoImageProcessor needs torchvision, which has no build for CPUs.
@pytest.mark.slow
def test_the_guide_runs(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    batches = [{"pixel_values": torch.randn(12, 3, 32, 32), "labels": torch.arange(12) % 2} for _ in range(2)]
    replaced = {
        '"num_tokens": 144': '"num_tokens": 9',
        "model = AutoModelForImageTextToText": "llava_model = AutoModelForImageTextToText",
        "model = AutoModel.": "encoder = AutoModel.",
        "google/vit-base-patch16-224": folders["path"],
        'push_to_hub("me/vit-pitome")': 'save_pretrained("recipe")',
        '"me/vit-pitome"': '"recipe"',
    }
    found = run("docs/guide.md", {**folders, "batches": batches}, replaced)
    assert "pitome" in found["pipe"].model.config.to_dict()
    assert found["pipe"](Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)))
    assert (tmp_path / "found.json").is_file() and (tmp_path / "found.png").is_file()
    assert found["model"].config.pitome["ratio"] == 0.9 and found["encoder"].config.pitome["flops_ratio"] == 1.8


@pytest.mark.slow  # the processors, as in the guide
def test_the_page_on_llava_runs(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    picture().save("photo.png")
    found = run("docs/multimodal.md", dict(folders))
    number, *_, counts = capsys.readouterr().out.splitlines()
    assert int(number) == found["num_image_tokens"](found["model"]) > 0
    passed, read = (int(word) for word in counts.split() if word.isdigit())
    assert passed - read == NUM_PATCHES - int(number)


# The processors, as in the guide.
@pytest.mark.slow
def test_the_quickstart_runs(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    colours = np.random.default_rng(0).integers(0, 255, (6, 4, 4, 3), dtype=np.uint8)
    for index, colour in enumerate(colours):
        Image.fromarray(colour).resize((40, 40)).save(
            tmp_path / "photos" / ("first.jpg" if index == 0 else f"{index}.jpg")
        )
    encoder = BertModel(bert_config())
    encoder.save_pretrained("minilm")
    tokenizer().save_pretrained("minilm")
    replaced = {
        "google/vit-base-patch16-224": folders["path"],
        "min_agreement=0.99": "min_agreement=0.5",
        "sentence-transformers/all-MiniLM-L6-v2": "minilm",
    }
    found = run("docs/quickstart.md", {}, replaced)
    output = capsys.readouterr().out
    assert "LABEL_" in output and "same answer as dense" in output and "agreement" in str(found["choice"])
    assert found["model"].config.pitome["flops_ratio"] == pytest.approx(found["choice"].flops_ratio)
    assert getattr(found["dense"].config, "pitome", None) is None and found["vectors"].shape == (2, 32)


def test_the_page_on_sound_and_video_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    classes = ("ASTForAudioClassification", "WhisperForConditionalGeneration", "VideoMAEForVideoClassification")
    names = ("ast", "whisper", "videomae")
    for name, class_name in zip(names, classes):
        save(name, class_name)
    found = run("docs/audio_video.md", {name: name for name in names})
    assert found["tokens"].shape[0] == 1 and found["merged"].shape == found["dense"].shape
    tokens = eval(capsys.readouterr().out.splitlines()[-1])
    assert tokens[0] > tokens[-1] and Image.open("clip.png").size[0] > 100


@pytest.mark.slow  # Depth Anything needs transformers 5.18
def test_the_page_on_dense_prediction_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save("depth", "DepthAnythingForDepthEstimation")
    save("ade", "DPTForSemanticSegmentation")
    pixels = torch.randn(2, 3, 32, 32)
    replaced = {"depth-anything/Depth-Anything-V2-Small-hf": "depth", "Intel/dpt-large-ade": "ade"}
    found = run("docs/dense_prediction.md", {"pixels": pixels, "batches": [{"pixel_values": pixels}]}, replaced)
    assert found["depth"].shape[0] == 2 and found["model"].config.pitome["flops_ratio"] == 1.35
    assert "pixels as dense" in capsys.readouterr().out and len(found["found"]) == 2


def test_the_page_on_migration_runs(tmp_path, capsys):
    sizes = {"hidden_size": 32, "num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 48}
    ViTForImageClassification(ViTConfig(**sizes)).save_pretrained(tmp_path)
    found = run("docs/migration.md", {}, {"facebook/deit-base-patch16-224": str(tmp_path)})
    tokens = [197 - 13 * layer for layer in range(13)]
    assert capsys.readouterr().out.strip() == str(tokens) and found["model"].config.pitome["algorithm"] == "tome"


def test_the_page_on_pictures_runs(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ViTForImageClassification.from_pretrained(folders["path"], pitome=0.8)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    processor = ViTImageProcessorPil.from_pretrained(folders["path"])
    found = run("docs/visualizing.md", {"model": model, "photo": photo, "processor": processor})
    assert (tmp_path / "groups.png").is_file() and found["last"].num_tokens < found["last"].groups.size


def test_the_page_on_export_runs(tmp_path, monkeypatch, capsys):
    """As a program of torch.export, which is the fastest to write: tests/export has the others."""
    monkeypatch.chdir(tmp_path)
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=32)
    model = apply_pitome(ViTForImageClassification(config), 0.5)
    names = {"model": model, "processor": ViTImageProcessorPil(size={"height": 32, "width": 32})}
    names["batches"] = [{"pixel_values": torch.randn(2, 3, 32, 32)}]
    names["images"] = [Image.new("RGB", (40, 40))]
    replaced = {
        '"vit-onnx", "onnx"': '"vit-torch", "torch"',
        'load_exported("vit-onnx")': 'load_exported("vit-torch")',
    }
    assert run("docs/export.md", names, replaced)["logits"].shape == (1, 2)
    assert (tmp_path / "vit-torch" / "model.pt2").is_file() and "pixel_values -> " in capsys.readouterr().out


def test_the_pages_on_performance_and_runtimes_run(tmp_path, monkeypatch):
    """On any file of OpenVINO with an open batch, which is then fixed."""
    import openvino

    class Mean(torch.nn.Module):
        def forward(self, pixel_values):
            return pixel_values.mean(dim=(1, 2, 3))

    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit-openvino").mkdir()
    written = openvino.convert_model(Mean(), example_input={"pixel_values": torch.zeros(2, 3, 8, 8)})
    openvino.save_model(written, "vit-openvino/openvino_model.xml")
    monkeypatch.setattr(optimum_pitome, "evaluate", lambda model, batches, ratios, runtimes: runtimes)
    found = run("docs/runtimes.md", {"model": None, "batches": []})
    assert [one.name for one in found["found"]] == ["onnx", "onnx int8"]
    assert list(found["compiled"].input("pixel_values").shape) == [1, 3, 224, 224]
    run("docs/performance.md", {})
    assert run("docs/alternatives.md", {})["make"](None)(torch.ones(1, 3, 2, 2)).shape == (1, 3, 2, 2)


@pytest.mark.real
def test_the_page_on_the_spectrum_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("docs/spectrum.md", {})
    assert (tmp_path / "outputs" / "pictures").is_dir() and (tmp_path / "outputs" / "texts").is_dir()


def test_the_page_on_fine_tuning_runs(folders, tmp_path):
    names = {**folders, "data": Pictures(), "loader": range(4), "num_steps": 4}
    names["args"] = TrainingArguments(
        output_dir=tmp_path, max_steps=2, per_device_train_batch_size=4, report_to=[], disable_tqdm=True, use_cpu=True
    )
    data = "train_dataset=data, eval_dataset=data, callbacks="
    found = run("docs/fine_tuning.md", names, {"..., callbacks=": data, "    ...\n": ""})
    assert found["model"].config.pitome["ratio"] == 0.9
    assert found["trainer"].train().global_step == 2
    assert {"eval_loss", "eval_r0.8_loss", "eval_r1_loss"} <= set(found["trainer"].evaluate())
