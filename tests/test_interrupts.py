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

"""Rewriting that is interrupted: a model is as it was, or can be mended."""

import contextlib
import itertools

import pytest
from modeling.helpers import CASES, assert_same_state, build, difference, run, snapshot
from zoo import outputs_of

from optimum_pitome import PiToMeConfig, apply, apply_pitome, remove_pitome
from optimum_pitome.modeling import rewrite


@pytest.fixture
def interrupt(monkeypatch):
    """Lets the change of a module's class fail, once: at the `k`-th module."""

    def arm(k):
        calls = itertools.count(1)

        def set_class(module, new_class):
            if next(calls) == k:
                raise KeyboardInterrupt
            original(module, new_class)

        monkeypatch.setattr(rewrite, "_set_class", set_class)

    original = rewrite._set_class
    return arm


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("name", ["ViTModel", "SiglipVisionModel"])
def test_an_interrupted_first_apply_leaves_the_dense_model(interrupt, name, k):
    model = build(name)
    before, dense = snapshot(model), run(model)
    interrupt(k)
    with pytest.raises(KeyboardInterrupt):
        apply_pitome(model, 0.8)
    assert_same_state(model, before)
    assert difference(run(model), dense) == 0.0


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("name", ["ViTModel", "SiglipVisionModel"])
def test_an_interrupted_removal_can_be_repeated(interrupt, name, k):
    model = build(name)
    before, dense = snapshot(model), run(model)
    apply_pitome(model, 0.8)
    expected = run(model)
    interrupt(k)
    with pytest.raises(KeyboardInterrupt):
        remove_pitome(model)
    assert difference(run(model), dense) == 0.0  # half removed, it is dense already
    assert difference(run(apply_pitome(model, 0.8)), expected) == 0.0
    interrupt(k)
    with pytest.raises(KeyboardInterrupt):
        remove_pitome(model)
    remove_pitome(model)
    assert_same_state(model, before)


def test_an_interrupted_change_of_settings_keeps_the_old_ones(monkeypatch):
    model = apply_pitome(build(), 0.8)
    expected = run(model)
    calls, install = [], apply.install_rewrite

    def fail_once(encoder, rewrite):
        install(encoder, rewrite)
        calls.append(rewrite)
        assert len(calls) > 1 or 1 / 0

    monkeypatch.setattr(apply, "install_rewrite", fail_once)
    with pytest.raises(ZeroDivisionError):
        apply_pitome(model, 0.6)
    assert difference(run(model), expected) == 0.0 and model.config.pitome["ratio"] == 0.8


@pytest.mark.parametrize("settings", [None, 0.8])
def test_an_interrupt_while_settings_are_written(monkeypatch, settings):
    model = build() if settings is None else apply_pitome(build(), settings)
    before, expected = snapshot(model), run(model)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(PiToMeConfig, "to_pitome_dict", lambda self: 1 / 0)
        apply_pitome(model, PiToMeConfig(ratio=0.6))
    assert difference(run(model), expected) == 0.0
    assert_same_state(model, before)


def test_an_interrupted_change_of_parts_leaves_the_others_dense(monkeypatch):
    case = CASES["VisionTextDualEncoderModel"]
    model, inputs = apply_pitome(case.build(), {"vision": 0.8}), case.inputs(2)
    before, expected = snapshot(model), outputs_of(model(**inputs))
    install = apply.install_rewrite

    def fail_after_the_text(encoder, rewrite):
        install(encoder, rewrite)
        assert rewrite.architecture.part != "text" or 1 / 0

    monkeypatch.setattr(apply, "install_rewrite", fail_after_the_text)
    with pytest.raises(ZeroDivisionError):
        apply_pitome(model, {"text": 0.8})
    assert difference(outputs_of(model(**inputs)), expected) == 0.0
    assert_same_state(model, before)


@pytest.mark.parametrize("settings", [None, 0.8])
def test_settings_are_kept_whatever_happens_in_between(settings):
    model = build()
    model.add_model_tags(["mine"])
    if settings is not None:
        apply_pitome(model, settings)
    before, expected = snapshot(model), run(model)
    for change in (lambda: apply_pitome(model, 0.6), lambda: remove_pitome(model), lambda: 1 / 0, lambda: None):
        with contextlib.suppress(ZeroDivisionError), apply.settings_kept(model):
            change()
        assert difference(run(model), expected) == 0.0
        assert_same_state(model, before)
