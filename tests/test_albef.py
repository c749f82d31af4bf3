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

"""examples/albef.py: a model that transformers does not have, registered from outside with public names; and the
script that measures it, on pictures made here."""

import copy
import pickle
import re
from pathlib import Path

import albef
import albef_retrieval
import pytest
import torch
from albef import AlbefConfig, AlbefForRetrieval, AlbefVisionModel
from datasets import Dataset, Features, Image, Value
from example_runs import results, run_here
from PIL import Image as PILImage
from tiny_processors import image_processor, tokenizer
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    BlipImageProcessor,
    VisionTextDualEncoderProcessor,
    ViTConfig,
    ViTModel,
)

import optimum_pitome
from optimum_pitome import (
    PiToMeConfig,
    UnsupportedArchitectureError,
    apply_pitome,
    pitome_disabled,
    pitome_summary,
    remove_pitome,
    take_samples,
)


SIZES = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
VISION = {**SIZES, "num_hidden_layers": 4, "image_size": 32, "patch_size": 4}
TEXT = {**SIZES, "num_hidden_layers": 2, "vocab_size": 60, "max_position_embeddings": 40}
LENGTHS = (12, 9, 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny ALBEF on disk, with weights that are large enough to tell pictures apart."""
    torch.manual_seed(0)
    model = AlbefForRetrieval(
        AlbefConfig(vision_config=VISION, text_config=TEXT, num_fusion_layers=2, projection_dim=16)
    )
    for parameter in (*model.vision_model.parameters(), *model.fusion_model.parameters()):
        parameter.data += 0.1 * torch.randn_like(parameter)
    path = tmp_path_factory.mktemp("albef")
    model.save_pretrained(path)
    return path


def inputs():
    choice = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1] * length + [0] * (max(LENGTHS) - length) for length in LENGTHS])
    ids = torch.randint(3, 60, mask.shape, generator=choice) * mask
    return {"pixel_values": torch.randn(3, 3, 32, 32, generator=choice), "input_ids": ids, "attention_mask": mask}


def outputs(model, **arguments):
    with torch.no_grad():
        found = model.eval()(**{**inputs(), **arguments})
    return torch.cat([found.logits, found.image_embeds, found.text_embeds], dim=-1)


def seen_by_fusion(model):
    """What the cross-attention of the multimodal encoder reads in one forward: hidden states, and what is added."""
    seen = []
    attention = model.fusion_model.layers[-1].crossattention
    handle = attention.register_forward_pre_hook(lambda module, args: seen.append(args[2:4]))
    outputs(model)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_ratio_1_is_the_dense_model(folder, implementation):
    model = AlbefForRetrieval.from_pretrained(folder, attn_implementation=implementation)
    dense = outputs(model)
    for settings in (1.0, {"vision": 1.0, "text": 1.0}):
        rewritten = AlbefForRetrieval.from_pretrained(folder, pitome=settings, attn_implementation=implementation)
        assert type(rewritten) is AlbefForRetrieval and torch.equal(outputs(rewritten), dense)
    merged = apply_pitome(model, 0.8)
    assert not torch.allclose(outputs(merged), dense, atol=1e-4)
    with pitome_disabled(merged):
        assert torch.equal(outputs(merged), dense)
    assert torch.equal(outputs(remove_pitome(merged)), dense)
    assert not merged.fusion_model._forward_pre_hooks


def test_the_halves_are_the_layer(folder):
    layer = apply_pitome(AlbefForRetrieval.from_pretrained(folder), 0.8).vision_model.layers[1]
    hidden_states = torch.randn(2, 65, 32)
    assert torch.equal(layer.mlp_half(layer.attention_half(hidden_states)), layer(hidden_states))


@pytest.mark.parametrize("unmerge", [True, False])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_cross_attention_reads_merged_tokens_with_their_log_sizes(folder, implementation, unmerge):
    settings = {"ratio": 0.8, "unmerge": unmerge}
    model = AlbefForRetrieval.from_pretrained(folder, pitome=settings, attn_implementation=implementation)
    states, bias = seen_by_fusion(model)
    left = pitome_summary(model).encoders[0].tokens[-1]
    assert states.shape == (3, left, 32) and bias.shape == (3, 1, 1, left) and left < 40
    torch.testing.assert_close(bias.exp().sum(dim=-1), torch.full((3, 1, 1), 65.0))
    if not unmerge:
        return
    # It is what attending to every member of a group gives.
    with torch.no_grad():
        whole = model.vision_model(inputs()["pixel_values"]).last_hidden_state
        text = model.text_model(inputs()["input_ids"], attention_mask=inputs()["attention_mask"]).last_hidden_state
        expected = model.match(whole.clone(), text, inputs()["attention_mask"])  # a copy says nothing about groups
    assert whole.shape[1] == 65
    torch.testing.assert_close(outputs(model)[:, :2], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("parts", ["vision", "both"])
def test_a_sample_does_not_depend_on_its_batch(folder, parts):
    settings = 0.8 if parts == "vision" else {"vision": 0.8, "text": 0.7}
    model = AlbefForRetrieval.from_pretrained(folder, pitome=settings)
    together, batch = outputs(model), inputs()
    for row, length in enumerate(LENGTHS):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        alone |= {name: alone[name][:, :length] for name in ("input_ids", "attention_mask")}
        torch.testing.assert_close(outputs(model, **alone), together[row : row + 1], atol=1e-5, rtol=1e-4)


def test_one_picture_is_matched_with_many_texts(folder):
    model, batch = AlbefForRetrieval.from_pretrained(folder, pitome=0.8), inputs()
    with torch.no_grad():
        states = model.vision_model(batch["pixel_values"]).last_hidden_state
        text = model.text_model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        together = model.match(take_samples(states, slice(1, 2)), text, batch["attention_mask"])
        repeated = model.match(take_samples(states, torch.tensor([1, 1, 1])), text, batch["attention_mask"])
    torch.testing.assert_close(together, repeated, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(together[1:2], outputs(model)[1:2, :2], atol=1e-5, rtol=1e-4)


def test_training_while_it_merges(folder):
    model, lengths = AlbefForRetrieval.from_pretrained(folder, pitome=0.8).train(), []
    model.fusion_model.layers[0].register_forward_pre_hook(lambda module, args: lengths.append(args[2].shape))
    model(**inputs(), return_loss=True).loss.backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing and all(parameter.grad.isfinite().all() for parameter in model.parameters())
    # The pair itself; then with two wrong ones for each: samples that were taken are short, too.
    assert [length[0] for length in lengths] == [3, 9] and {length[1] for length in lengths} == {lengths[0][1]}
    assert lengths[0][1] < 65


def test_saved_and_loaded_again(folder, tmp_path):
    model = AlbefForRetrieval.from_pretrained(folder, pitome={"vision": 0.8, "text": 0.7})
    expected = outputs(model)
    model.save_pretrained(tmp_path / "model")
    for loader in (AlbefForRetrieval, AutoModel):
        again = loader.from_pretrained(tmp_path / "model")
        assert type(again) is AlbefForRetrieval and torch.equal(outputs(again), expected)
    assert again.config.pitome["parts"] == {"vision": {"ratio": 0.8}, "text": {"ratio": 0.7}}
    dense = AlbefForRetrieval.from_pretrained(tmp_path / "model", pitome=False)
    assert torch.equal(outputs(dense), outputs(AlbefForRetrieval.from_pretrained(folder)))
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(outputs(made), expected)


def test_a_recipe(folder, tmp_path):
    PiToMeConfig(0.8, base_model_name_or_path=str(folder)).save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    assert type(model) is AlbefForRetrieval
    assert torch.equal(outputs(model), outputs(AlbefForRetrieval.from_pretrained(folder, pitome=0.8)))


def test_the_image_encoder_alone(folder, tmp_path):
    whole = AlbefForRetrieval.from_pretrained(folder)
    whole.vision_model.save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, pitome=0.8, attn_implementation="eager")
    assert type(model) is AlbefVisionModel
    with torch.no_grad():
        found = model(inputs()["pixel_values"], output_hidden_states=True, output_attentions=True)
    assert [states.shape[1] for states in found.hidden_states] == [65] * 5
    lengths = [weights.shape[-1] for weights in found.attentions]
    assert lengths[0] == 65 and lengths == sorted(lengths, reverse=True) and lengths[-1] < 45


def test_summary_and_budgets(folder):
    model = AlbefForRetrieval.from_pretrained(folder, pitome={"flops_ratio": 1.3})
    summary = pitome_summary(model)
    assert summary.encoders[0].tokens[0] == 65 and summary.flops_ratio == pytest.approx(1.3, abs=0.1)
    assert "vision_model" in str(summary) and "AlbefVisionLayer" in str(model)


def test_widths_that_differ_are_refused():
    with pytest.raises(ValueError, match="The image encoder is 48 wide, the text encoder 32. Make both equal"):
        AlbefConfig(vision_config={**VISION, "hidden_size": 48}, text_config=TEXT)
    assert AlbefConfig().text_config.num_hidden_layers == AlbefConfig().num_fusion_layers == 6


def test_a_layer_of_another_class_is_refused(folder):
    model = AlbefForRetrieval.from_pretrained(folder)
    model.vision_model.layers[2] = torch.nn.Identity()
    with pytest.raises(UnsupportedArchitectureError, match="not the AlbefVisionLayer that optimum_pitome rewrites"):
        apply_pitome(model, 0.8)


# --- The script -----------------------------------------------------------------------------------------------------


def test_weights_of_a_vit_and_a_bert():
    torch.manual_seed(0)
    vision = ViTModel(ViTConfig(**VISION), add_pooling_layer=False).eval()
    text = BertModel(BertConfig(**TEXT)).eval()
    model, batch = albef_retrieval.make_albef(vision, text, num_fusion_layers=1), inputs()
    with torch.no_grad():
        found = model.vision_model(batch["pixel_values"]).last_hidden_state
        torch.testing.assert_close(found, vision(batch["pixel_values"]).last_hidden_state, atol=1e-6, rtol=1e-5)
        found = model.text_model(batch["input_ids"]).last_hidden_state
        assert torch.equal(found, text(batch["input_ids"]).last_hidden_state)
    fused, last = model.fusion_model.layers[0], text.encoder.layer[-1]
    assert torch.equal(fused.crossattention.self.key.weight, last.attention.self.key.weight)
    assert torch.equal(fused.output.dense.weight, last.output.dense.weight)


def test_the_script(folder, tmp_path, monkeypatch, capsys):
    """Training and measuring, on twelve pictures and the tiny model."""
    words = "cat dog frog red blue this sign letter yes no many picture".split()
    pictures = [PILImage.effect_noise((40, 40), 20 + 10 * i).convert("RGB") for i in range(12)]
    columns = {"image": pictures, "caption": [f"a photo of {word}" for word in words]}
    dataset = Dataset.from_dict(columns, Features(image=Image(), caption=Value("string")))
    dataset.save_to_disk(tmp_path / "pictures")
    processor = VisionTextDualEncoderProcessor(image_processor(BlipImageProcessor), tokenizer())
    torch.manual_seed(0)
    model = AlbefForRetrieval.from_pretrained(folder)
    before = copy.deepcopy(model.state_dict())
    shown = albef_retrieval.load_pictures(str(tmp_path / "pictures"))
    encoded = albef_retrieval.encode(model.eval(), processor, *shown)
    assert encoded[0].shape == (12, 65, 32) and encoded[1].shape[:2] == encoded[2].shape == (12, 6)
    albef_retrieval.train(model, *encoded, epochs=2, batch_size=4)
    changed = {
        name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"fusion_model", "itm_head", "vision_projection", "text_projection"}
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    arguments = ["--model", tmp_path / "model", "--dataset", tmp_path / "pictures", "--batch-size", "5"]
    arguments += ["--ratios", "0.9", "0.7", "--rerank", "3", "--output-dir", tmp_path / "out"]
    run_here(monkeypatch, albef_retrieval, *arguments)
    first, second = results(tmp_path / "out")
    assert (first["num_tokens"], second["gflops_merged"] < first["gflops_merged"]) == ([65], True)
    assert {"image_to_text_recall@1", "text_to_image_recall@5", "matching_accuracy"} <= set(first["merged"])
    assert 0 <= first["kept"]["same_match"] <= 1 and "12 pictures" in capsys.readouterr().out


def test_reranked_scores_are_those_of_pairs(folder, tmp_path):
    model = AlbefForRetrieval.from_pretrained(folder, pitome=0.8).eval()
    processor = VisionTextDualEncoderProcessor(image_processor(BlipImageProcessor), tokenizer())
    judge = albef_retrieval.AlbefJudge(model, processor, top=2)
    captions = [["a photo of cat"], ["the sign for dog yes no"], ["red"]]
    texts = [text for of_picture in captions for text in of_picture]
    pixels = inputs()["pixel_values"]
    with torch.inference_mode():
        batch = {**judge.encode(texts), "pixel_values": pixels}
        answers = judge.answer(batch)
        scores = judge.similarity(answers, {text: index for index, text in enumerate(texts)})
        found = model(pixels, batch["input_ids"], batch["attention_mask"])
    pairs = (found.image_embeds * found.text_embeds).sum(dim=-1) + found.logits[:, 1] - found.logits[:, 0]
    ranked = scores.diagonal() > -100
    assert ranked.any()
    torch.testing.assert_close(scores.diagonal()[ranked], pairs[ranked], atol=1e-5, rtol=1e-4)
    decisions = judge.decide(answers, captions)
    assert len(decisions) == 6 and [len(one.matches) for one in decisions] == [2, 2, 2, 0, 0, 0]
    assert judge.kept(decisions, decisions) == {"same_match": [1.0] * 6}


def test_a_caption_of_another_picture():
    captions = [["a", "b"], ["c"], ["a"]]
    found = albef_retrieval.with_another(captions)
    assert [own for own, _ in found] == ["a", "c", "a"] and found == albef_retrieval.with_another(captions)
    assert found[0][1] == "c" and found[1][1] in "ab" and found[2][1] in "bc"


def test_only_public_names_are_used():
    source = Path(albef.__file__).read_text(encoding="utf-8")
    found = re.findall(r"^(?:from|import) (optimum_pitome\S*)(?: import (.+))?", source, flags=re.MULTILINE)
    assert [module for module, _ in found] == ["optimum_pitome"]
    assert set(found[0][1].split(", ")) <= set(optimum_pitome.__all__)
