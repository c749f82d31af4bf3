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

"""Models of timm, in transformers' wrappers and by themselves. `make test-timm` runs these and the zoo's with timm."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from optimum_pitome import (
    PiToMeConfig,
    apply_pitome,
    export_pitome,
    pitome_disabled,
    pitome_summary,
)
from optimum_pitome.apply import layers_watched
from optimum_pitome.benchmarking.inputs import example_inputs
from optimum_pitome.modeling.rewrite import rewritten_encoders


timm = pytest.importorskip("timm", reason="timm is not installed: make test-timm has it")

from commands.conftest import optimum_cli  # noqa: E402, F401
from families.test_every_encoder import (  # noqa: E402
    test_it_loads_as_it_was_saved_and_by_a_recipe as check_loading,
)
from families.test_merged_layers import test_merged_layers_are_dense_layers_on_copies as check_layers  # noqa: E402
from families.test_parity import largest_difference, run  # noqa: E402
from transformers import (  # noqa: E402
    AutoBackbone,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    TimmBackboneConfig,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperModel,
    pipeline,
)
from zoo import all_cases, outputs_of  # noqa: E402
from zoo.timm import SIZES, timm_config  # noqa: E402


CASES = [case for case in all_cases() if case.id.startswith("Timm")]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
SETTINGS = {"ratio": 0.8, "layers": [0, 1, 2]}


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 32, 32, generator=generator)


def timm_vit(**arguments):
    """A ViT without a wrapper, with weights that make tokens differ."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **{**SIZES, "num_classes": 3, **arguments})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("variant", ["Eva02", "Dinov3", "MixedRope", "Perception", "FewerKeys"])
@torch.no_grad()
def test_rotary_models_compare_keys_before_the_rotation(variant):
    """In the first layer, and in one after a merge."""
    (case,) = (case for case in CASES if case.variant == variant)
    model = apply_pitome(case.build(), {"ratio": 0.7, "layers": [0, 1]})
    projected, compared = [], []
    for name, module in model.named_modules():
        if name.endswith("k_norm"):
            module.register_forward_hook(lambda module, inputs, output: projected.append(output))
    with layers_watched(model, compared.append):
        model(**case.inputs(2))
    assert len(compared) >= 2 and compared[1].tokens.rows is not None
    for record, keys in zip(compared[:2], projected):
        torch.testing.assert_close(record.features, keys.mean(dim=1))


@each_case
def test_merged_layers_and_their_special_tokens(case):
    """Registers, the class token and both kinds of pooling: the slow reference, and no special token in a group."""
    check_layers(case, [0, 2])


@each_case
def test_every_variant_loads_as_it_was_saved(case, tmp_path):
    check_loading(case, tmp_path)


@each_case
@torch.no_grad()
def test_a_pooled_mean_is_the_mean_by_sizes(case):
    """What the head reads is what it would read of one copy of a merged token for each that is in it."""
    model = apply_pitome(case.build(), SETTINGS)
    vit, short, records = model.timm_model, [], []
    vit.norm.register_forward_hook(lambda module, args, output: short.append(output))
    with layers_watched(model, records.append):
        output = model(**case.inputs(2))
    tokens = records[-1].tokens.merged(records[-1].plan)
    assert short[0].shape[1] == tokens.sizes.shape[1] < 65
    copies = torch.stack([one.repeat_interleave(sizes.long(), dim=0) for one, sizes in zip(short[0], tokens.sizes)])
    found = output.logits if "logits" in output else output.pooler_output
    torch.testing.assert_close(vit.forward_head(copies), found, atol=1e-5, rtol=1e-5)


@each_case
@torch.no_grad()
def test_hidden_states_are_grids(case):
    model, inputs = case.build(), case.inputs(2)
    apply_pitome(model, SETTINGS)
    found = model(**inputs, output_hidden_states=True).hidden_states
    assert [state.shape for state in found] == 4 * [(2, 32, 8, 8)]
    some = model(**inputs, output_hidden_states=[1, 3]).hidden_states
    assert torch.equal(some[0], found[1]) and torch.equal(some[1], found[3])
    # The groups of each layer: places that merged have one vector, and those of a layer hold those of the one before.
    distinct = [len(torch.unique(state[0].flatten(1), dim=1).T) for state in found]
    layers = pitome_summary(model).encoders[0].layers
    prefix = model.timm_model.num_prefix_tokens
    assert distinct == [layer.tokens_out - prefix for layer in layers]


FORMS = {"pair": {}, "dictionary": {"output_dict": True}, "intermediates": {"intermediates_only": True}}


@pytest.mark.parametrize("asked", [{"norm": True}, {"output_fmt": "NLC"}, {"return_prefix_tokens": True}], ids=str)
@pytest.mark.parametrize("shape", FORMS)
@torch.no_grad()
def test_every_form_of_intermediates(images, asked, shape):
    """As timm itself returns them, but for the numbers."""
    asked = {
        **asked,
        **{"pair": {}, "dictionary": {"output_dict": True}, "intermediates": {"intermediates_only": True}}[shape],
    }
    model = timm_vit(reg_tokens=2)

    def flat(found):
        if isinstance(found, torch.Tensor):
            return [found]
        parts = found.items() if isinstance(found, dict) else enumerate(found)
        return [item for key, part in parts for item in [key, *flat(part)]]

    dense = flat(model.forward_intermediates(images, indices=[0, 2], **asked))
    apply_pitome(model, 1.0)
    assert all(
        torch.equal(*pair) if isinstance(pair[0], torch.Tensor) else pair[0] == pair[1]
        for pair in zip(flat(model.forward_intermediates(images, indices=[0, 2], **asked)), dense, strict=True)
    )
    apply_pitome(model, {"ratio": 0.8, "layers": [3]})  # what is read lies before the merge
    before = flat(model.forward_intermediates(images, indices=[0, 2], intermediates_only=True))
    apply_pitome(model, SETTINGS)
    merged = flat(model.forward_intermediates(images, indices=[0, 2], **asked))
    assert len(merged) == len(dense) and len(before) == 4
    for found, expected in zip(merged, dense):
        assert found.shape == expected.shape if isinstance(found, torch.Tensor) else found == expected
    early = flat(model.forward_intermediates(images, indices=[0, 2], intermediates_only=True, stop_early=True))
    late = flat(model.forward_intermediates(images, indices=[0, 2], intermediates_only=True))
    assert all(torch.equal(one, other) for one, other in zip(early[1::2], late[1::2]))


@torch.no_grad()
def test_a_model_of_timm_without_a_wrapper(images):
    wrapped = apply_pitome(next(case for case in CASES if not case.variant).build(), SETTINGS)
    model = timm_vit()
    dense = model(images)
    model.load_state_dict(wrapped.timm_model.state_dict())
    apply_pitome(model, SETTINGS)
    assert torch.equal(model(images), wrapped(images).logits)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images), model(images))
    with pitome_disabled(model):
        assert not torch.equal(model(images), wrapped(images).logits)
    assert dense.shape == (2, 3)


@torch.no_grad()
def test_a_backbone_gives_whole_grids():
    config = TimmBackboneConfig(backbone="test_vit", out_indices=[1, 3])
    backbone = AutoBackbone.from_config(config).eval()
    pixels = example_inputs(backbone, 2)["pixel_values"]
    dense = backbone(pixels).feature_maps
    apply_pitome(backbone, 0.8)
    found = backbone(pixels).feature_maps
    assert [maps.shape for maps in found] == [maps.shape for maps in dense]
    assert all((one - other).abs().max() > 1e-3 for one, other in zip(found, dense))
    vit = rewritten_encoders(backbone)[0]
    expected = vit.forward_intermediates(pixels, indices=[1, 3], intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(found, expected))
    loaded = AutoBackbone.from_config(config, pitome=0.8)
    assert rewritten_encoders(loaded)[0].pitome.config.ratio == 0.8


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.variant in ("", "Siglip", "MixedRope", "Perception")],
    ids=lambda case: case.id,
)
def test_compile_and_export(case):
    torch._dynamo.reset()
    model, inputs = apply_pitome(case.build(), SETTINGS), {**case.inputs(2), "output_hidden_states": True}
    expected = run(model, inputs)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert largest_difference(outputs_of(compiled(**inputs)), expected) < 1e-5
        program = torch.export.export(model, (), inputs, strict=False).module()
        assert largest_difference(outputs_of(program(**inputs)), expected) < 1e-5


@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case.id)
def test_checkpointing_changes_no_gradient(case):
    gradients = []
    for checkpointing in (False, True):
        model = apply_pitome(case.build(), SETTINGS).train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.timm_model.grad_checkpointing
        run_blocks = []
        model.timm_model.blocks[0].norm1.register_forward_hook(lambda *args: run_blocks.append(1))
        outputs = model(**case.inputs(2), output_hidden_states=True)
        sum(value.square().mean() for value in outputs_of(outputs).values()).backward()
        assert len(run_blocks) == 1 + checkpointing
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("attends", [True, False])
def test_importance_is_that_of_a_class_token(attends):
    """A register sums nothing up."""
    model = apply_pitome(timm_vit(class_token=attends, reg_tokens=2, global_pool="avg"), 0.8)
    assert {spec.importance for spec in model.pitome.specs} == {0.5 if attends else 0.0}
    assert model.pitome.num_prefix_tokens == 2 + attends


@pytest.fixture
def checkpoint(tmp_path):
    """A folder as timm's are on the Hub: its own configuration and names of weights, which transformers reads."""
    (tmp_path / "model").mkdir()
    save_file(timm_vit().state_dict(), tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    pretrained = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9, "num_classes": 3}
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "model_args": SIZES,
        "pretrained_cfg": pretrained,
    }
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    return tmp_path / "model"


@torch.no_grad()
def test_loading_pipelines_and_recipes(checkpoint, tmp_path, images):
    model = AutoModelForImageClassification.from_pretrained(checkpoint, pitome=0.8).eval()
    assert type(model) is TimmWrapperForImageClassification
    merged = model(images).logits
    assert torch.equal(merged, apply_pitome(timm_vit(), 0.8)(images))
    model.save_pretrained(tmp_path / "merged")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "merged").eval()
    assert torch.equal(again(images).logits, merged)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["pitome"]["ratio"] == 0.8
    PiToMeConfig(0.8, base_model_name_or_path=str(checkpoint)).save_pretrained(tmp_path / "recipe")
    by_recipe = AutoModelForImageClassification.from_pretrained(tmp_path / "recipe").eval()
    assert torch.equal(by_recipe(images).logits, merged)
    assert type(AutoModel.from_pretrained(tmp_path / "recipe")) is TimmWrapperModel

    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    pixels = AutoImageProcessor.from_pretrained(checkpoint)(picture, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    expected = model(pixels).logits.softmax(-1)[0].sort(descending=True).values
    for folder, keywords in ((checkpoint, {"model_kwargs": {"pitome": 0.8}}), (tmp_path / "recipe", {})):
        answers = pipeline("image-classification", str(folder), **keywords)(picture)
        torch.testing.assert_close(torch.tensor([answer["score"] for answer in answers]), expected)


def test_commands(checkpoint, optimum_cli, tmp_path):  # noqa: F811
    text = optimum_cli("pitome", "summary", checkpoint, "--ratio", 0.8)
    assert "65 -> 53" in text and "fewer operations" in text
    report = ("--rounds", 3, "--warmup", 1, "--output-dir", tmp_path / "report")
    text = optimum_cli("pitome", "benchmark", checkpoint, "--ratio", 0.8, "--batch-size", 1, *report)
    row = json.loads((tmp_path / "report" / "benchmark.json").read_text())["rows"][0]
    assert row["tokens"][0] == 65 and row["merged_ms"] > 0 and not row["error"], text
    for name in "ab":
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(4):
            Image.effect_noise((40, 40), 20 + 20 * index).save(tmp_path / "pictures" / name / f"{index}.png")
    settings = ("--task", "feature-extraction", "--dataset", tmp_path / "pictures", "--ratio", 0.8)
    assert "10 nearest kept" in optimum_cli("pitome", "evaluate", checkpoint, *settings)


def test_settings_that_do_not_fit_are_refused_before_the_weights(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="the model has 4 layers, so 9 is out of range"):
        AutoModelForImageClassification.from_pretrained(checkpoint, pitome={"layers": [9]})


def test_sizes_are_those_of_the_model(tmp_path):
    model = apply_pitome(timm_vit(img_size=(24, 32)), 0.8)
    assert pitome_summary(model).encoders[0].tokens[0] == 1 + 6 * 8
    wrapped = apply_pitome(TimmWrapperModel(timm_config(img_size=(24, 32))).eval(), 0.8)
    assert example_inputs(wrapped, 2)["pixel_values"].shape == (2, 3, 24, 32)
    budget = apply_pitome(wrapped, {"flops_ratio": 1.3})
    assert 1.3 <= pitome_summary(budget).flops_ratio < 1.5
    found = export_pitome(budget, tmp_path / "exported", format="torch")
    assert found.comparison.relative < 1e-4


def as_timm(state, num_layers):
    """The weights of a `ViTModel` under the names of timm's `VisionTransformer`."""
    names = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "layernorm": "norm",
    }
    inside = {
        "layernorm_before": "norm1",
        "attention.o_proj": "attn.proj",
        "layernorm_after": "norm2",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for index in range(num_layers):
        names.update({f"layers.{index}.{old}": f"blocks.{index}.{new}" for old, new in inside.items()})
    found = {}
    for old, new in names.items():
        for end in ("", ".weight", ".bias"):
            if old + end in state:
                found[new + end] = state[old + end]
    for index in range(num_layers):
        for end in ("weight", "bias"):
            parts = [state[f"layers.{index}.attention.{name}_proj.{end}"] for name in "qkv"]
            found[f"blocks.{index}.attn.qkv.{end}"] = torch.cat(parts)
    return found


@pytest.mark.real
@pytest.mark.parametrize("settings", [0.9, {"flops_ratio": 1.8}, {"ratio": 0.9, "algorithm": "tome"}], ids=str)
@torch.no_grad()
def test_the_same_weights_merge_alike_in_both_libraries(settings):
    import real_assets
    from transformers import ViTModel

    folder = real_assets.dinov2_small_as_vit(224)
    ours = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    arguments = {"patch_size": 14, "img_size": 224}
    theirs = TimmWrapperModel(TimmWrapperConfig(architecture="vit_small_patch16_224", model_args=arguments)).eval()
    theirs.timm_model.load_state_dict(as_timm(ours.state_dict(), 12))
    photos = real_assets.imagenet_photos()[:4]["image"]
    pixels = AutoImageProcessor.from_pretrained(folder)(photos, return_tensors="pt")["pixel_values"]
    dense = ours(pixels).last_hidden_state
    assert (theirs(pixels).last_hidden_state - dense).abs().max() < 1e-4
    merged = [apply_pitome(model, settings)(pixels).last_hidden_state for model in (ours, theirs)]
    assert (merged[0] - dense).abs().max() > 0.1
    difference = (merged[0] - merged[1]).abs().max().item()
    print(f"largest difference of merged outputs: {difference:.1e}, of values up to {merged[0].abs().max():.1f}")
    assert difference < 1e-4
