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

"""What `PiToMeCallback` changes on a Trainer: checkpoints, cards, the loss."""

import json

import pytest
import torch
from training.tiny import LINEAR, Pictures, Recorder, history, make_trainer, tiny_vit, weights_of
from transformers import AutoModelForImageClassification, Trainer

from optimum_pitome import DenseDistillation, PiToMeCallback, apply_pitome, remove_pitome


@pytest.mark.parametrize(
    "arguments", [{}, {"schedule": "random", "ratio_range": (0.6, 1.0)}], ids=["linear", "random"]
)
def test_resuming_continues_exactly(tmp_path, arguments, caplog):
    settings = {"save_strategy": "steps", "save_steps": 3}
    whole = make_trainer(tmp_path / "whole", PiToMeCallback(0.8, **arguments), **settings)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", PiToMeCallback(0.8, **arguments), **settings)
    with caplog.at_level("WARNING", "optimum_pitome"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    # transformers warns that all weights of a ViT are missing. What is said after it takes that back.
    assert "PiToMeCallback translated and loaded them: nothing is missing" in caplog.text
    for name in ("loss", "pitome_ratio", "grad_norm"):
        assert history(resumed, name) == history(whole, name) and len(history(whole, name)) == 8
    assert torch.equal(weights_of(resumed.model), weights_of(whole.model))


def test_the_best_weights_come_back_at_the_end(tmp_path):
    """transformers 5 saves ViT's under other names, which `Trainer` itself does not find again."""
    settings = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps", "eval_steps": 4}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    trainer = make_trainer(tmp_path, PiToMeCallback(0.8), **settings)  # the first one, with the largest loss
    trainer.train()
    first, last = (
        AutoModelForImageClassification.from_pretrained(tmp_path / f"checkpoint-{step}", pitome=False)
        for step in (4, 8)
    )
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    assert torch.equal(weights_of(trainer.model), weights_of(first))
    assert not torch.equal(weights_of(first), weights_of(last))


def test_checkpoints_have_the_final_settings(tmp_path):
    trainer = make_trainer(tmp_path, PiToMeCallback(0.8, end=1.0), save_strategy="steps", save_steps=4)
    trainer.train()
    for step in (4, 8):
        folder = tmp_path / f"checkpoint-{step}"
        assert json.loads((folder / "config.json").read_text())["pitome"]["ratio"] == 0.8
        assert '"ratio": 0.8' in (folder / "README.md").read_text()
    pictures = torch.stack([picture["pixel_values"] for picture in Pictures(4)])
    with torch.no_grad():
        expected = trainer.model.eval()(pictures).logits
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "checkpoint-8")
        assert torch.equal(loaded(pictures).logits, expected)
    trainer.create_model_card(tags=["mine"])
    trainer.create_model_card(tags=["mine"])
    card = (tmp_path / "README.md").read_text()
    assert card.count("## Token merging") == 1 and '"ratio": 0.8' in card and "- pitome" in card and "- mine" in card
    assert "Training hyperparameters" in card and "ViTForImageClassification.from_pretrained" in card
    assert "they have to be passed" not in card
    trainer.save_model()  # neither doubles the section nor loses what Trainer wrote
    assert (tmp_path / "README.md").read_text() == card


def test_a_trainer_of_another_class(tmp_path):
    """What its class replaces is changed, too; once, however often the callback is attached."""

    class Other(Trainer):
        calls = 0

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            type(self).calls += 1
            outputs = model(**inputs)
            return (outputs.loss, outputs) if return_outputs else outputs.loss

        def save_model(self, output_dir=None, _internal_call=False):
            (tmp_path / "README.md").write_text("Mine.\n")

    callback = PiToMeCallback(0.8, "constant", distillation=DenseDistillation(weight=100.0))
    trainer = make_trainer(tmp_path, callback, trainer_class=Other)
    callback.attach(trainer)
    trainer.add_callback(Recorder())
    trainer.train()
    plain = make_trainer(tmp_path, PiToMeCallback(0.8, "constant"), trainer_class=Other)
    plain.train()
    assert history(trainer, "loss")[0] > history(plain, "loss")[0] and Other.calls == 16
    trainer.save_model()
    card = (tmp_path / "README.md").read_text()
    assert card.count("## Token merging") == 1 and "\nMine.\n" in card


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # PEFT asks by the old name
def test_the_card_of_an_adapter_has_the_last_ratio(tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(apply_pitome(tiny_vit(), 0.9), LoraConfig(target_modules=["q_proj", "v_proj"]))
    trainer = make_trainer(tmp_path, PiToMeCallback(0.8), model=model, label_names=["labels"])
    for steps in (2, 4):  # the second time there is a card already
        trainer.args.max_steps = steps
        trainer.train()
        trainer.save_model()
        card = (tmp_path / "README.md").read_text()
        settings = json.loads(card.partition("```json")[2].partition("```")[0])
        assert settings == trainer.model.config.pitome and settings["ratio"] == 0.8
        assert card.count("## Token merging") == 1 and "library_name: peft" in card
        assert "pitome=0.8)  # merges tokens" in card and "they have to be passed" in card
    trainer.create_model_card()
    assert (tmp_path / "README.md").read_text().count("pitome=0.8)  # merges tokens") == 1
    remove_pitome(trainer.model.get_base_model())
    trainer.save_model()
    assert "pitome" not in (tmp_path / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # PEFT asks by the old name
def test_lora_on_a_rewritten_model(tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    tiny_vit().save_pretrained(tmp_path / "base")
    base = AutoModelForImageClassification.from_pretrained(tmp_path / "base", pitome=0.8)
    model = get_peft_model(
        base, LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"], init_lora_weights=False)
    )
    recorder = Recorder()
    settings = {"save_strategy": "steps", "save_steps": 8, "label_names": ["labels"]}
    trainer = make_trainer(tmp_path / "out", recorder, PiToMeCallback(distillation=True), model=model, **settings)
    frozen = base.vit.layers[0].mlp.fc1.weight.clone()
    trainer.train()
    assert recorder.ratios == LINEAR
    assert torch.equal(base.vit.layers[0].mlp.fc1.weight, frozen)
    folder = tmp_path / "out" / "checkpoint-8"
    assert '"ratio": 0.8' in (folder / "README.md").read_text()
    pictures = Pictures(4).pixels
    with torch.no_grad():
        expected = model.eval()(pixel_values=pictures).logits
        again = AutoModelForImageClassification.from_pretrained(tmp_path / "base", pitome=0.8)
        assert torch.equal(PeftModel.from_pretrained(again, folder)(pixel_values=pictures).logits, expected)
        direct = AutoModelForImageClassification.from_pretrained(folder, pitome=0.8)
        assert direct.vit.layers[0].pitome_spec is not None and direct.config.pitome["ratio"] == 0.8
        dense = PeftModel.from_pretrained(AutoModelForImageClassification.from_pretrained(tmp_path / "base"), folder)
        assert not torch.allclose(dense(pixel_values=pictures).logits, expected, atol=1e-4)
