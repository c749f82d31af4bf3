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

"""One model, several forwards at once: no forward leaves a trace in another."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from modeling.helpers import VISION, build, difference, images, run

from optimum_pitome import apply_pitome, pitome_disabled, remove_pitome
from optimum_pitome.modeling import forward
from optimum_pitome.modeling.rewrite import rewritten_encoders


def in_the_middle(model, action):
    """Runs `action` after the second layer of every forward, as another thread might; `remove()` ends that."""

    def hook(*_):
        action()

    layers = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    return layers[1].register_forward_hook(hook)


def layers_of(model):
    encoder = rewritten_encoders(model)[0]
    return list(encoder.pitome.architecture.find_layers(encoder))


@pytest.mark.parametrize("name", VISION)
def test_eight_threads(name):
    model = apply_pitome(build(name), 0.8)
    batches = [images(batch_size=1 + seed % 3, seed=seed) for seed in range(32)]
    expected = [run(model, batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda batch: run(model, batch), batches))
    assert all(difference(result, one) == 0.0 for result, one in zip(results, expected))


def test_two_forwards_that_alternate_at_every_layer():
    model = apply_pitome(build("ViTForImageClassification"), 0.7)
    first, second = images(2, seed=3), images(5, seed=4)
    expected = run(model, first), run(model, second)
    barrier = threading.Barrier(2, timeout=30)

    def wait(*_):
        barrier.wait()

    for layer in layers_of(model):
        layer.register_forward_pre_hook(wait)
        layer.register_forward_hook(wait)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda batch: run(model, batch), (first, second)))
    assert [difference(result, one) for result, one in zip(results, expected)] == [0.0, 0.0]


def test_a_forward_inside_a_forward():
    model = apply_pitome(build("ViTModel"), 0.7)
    outer, inner = images(2, seed=5), images(3, seed=6)
    expected = run(model, outer), run(model, inner)
    nested = []

    def intrude(*_):
        if len(nested) < 1:
            nested.append(None)
            nested[0] = run(model, inner)

    layers_of(model)[1].register_forward_hook(intrude)
    result = run(model, outer)
    assert difference(result, expected[0]) == 0.0 and difference(nested[0], expected[1]) == 0.0


@pytest.mark.parametrize("name", VISION)
def test_an_exception_in_mid_forward(name):
    model = apply_pitome(build(name), 0.8)
    expected = run(model)

    def fail(*_):
        raise KeyboardInterrupt

    for layer in layers_of(model):
        handle = layer.register_forward_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            run(model)
        handle.remove()
        assert difference(run(model), expected) == 0.0


@pytest.mark.parametrize("change", [0.6, {"ratio": 0.7, "layers": [3]}, 1.0, "disabled"])
@pytest.mark.parametrize("name", VISION)
def test_a_forward_keeps_the_settings_that_it_started_with(name, change):
    model = apply_pitome(build(name), 0.8)
    expected = run(model)
    disabled = pitome_disabled(model)
    change_settings = disabled.__enter__ if change == "disabled" else lambda: apply_pitome(model, change)
    handle = in_the_middle(model, change_settings)
    assert difference(run(model), expected) == 0.0
    handle.remove()
    new = build(name) if change == "disabled" else apply_pitome(build(name), change)
    assert difference(run(model), run(new)) == 0.0
    if change == "disabled":
        disabled.__exit__(None, None, None)
        assert difference(run(model), expected) == 0.0


@pytest.mark.parametrize("name", VISION)
def test_a_model_that_is_made_dense_while_it_runs_says_so(name):
    model = apply_pitome(build(name), 0.8)
    handle = in_the_middle(model, lambda: remove_pitome(model))
    with pytest.raises(RuntimeError, match="made dense by another thread while it ran.*no forward may run meanwhile"):
        run(model)
    handle.remove()
    assert difference(run(model), run(build(name))) == 0.0


def test_a_model_that_is_made_dense_as_it_begins_says_so(monkeypatch):
    model = apply_pitome(build(), 0.8)
    monkeypatch.setattr(forward, "check_implementation", lambda *_: remove_pitome(model))
    with pytest.raises(RuntimeError, match="made dense by another thread while it ran"):
        run(model)


def test_a_model_may_be_rewritten_while_it_runs_dense():
    model = build()
    dense = run(model)
    handle = in_the_middle(model, lambda: apply_pitome(model, 0.8))
    assert difference(run(model), dense) == 0.0
    handle.remove()
    assert difference(run(model), run(apply_pitome(build(), 0.8))) == 0.0


def test_blocks_of_pitome_disabled_overlap_in_two_threads():
    """The first block opens, the second opens, the first closes, the second closes."""
    model = apply_pitome(build(), 0.8)
    expected, dense = run(model), run(build())
    opened, closed = threading.Barrier(2, timeout=30), threading.Barrier(2, timeout=30)

    def first():
        with pitome_disabled(model):
            opened.wait()
        closed.wait()

    def second():
        with pitome_disabled(model):
            opened.wait()
            closed.wait()
            return run(model)

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(job) for job in (first, second)]
        assert difference([job.result() for job in jobs][1], dense) == 0.0
    assert difference(run(model), expected) == 0.0


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("name", VISION)
def test_activation_checkpointing(name, use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = apply_pitome(build(name), 0.8).train()
        calls = []
        layers_of(model)[1].attention.register_forward_hook(lambda *_: calls.append(1))
        if checkpointing:
            # Renamed in transformers 5.23.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": use_reentrant})
        output = model(images(seed=8).requires_grad_())
        sum(value.square().sum() for value in output.values()).backward()
        assert len(calls) == (2 if checkpointing else 1)  # it really runs twice
        gradients.append({key: value.grad for key, value in model.named_parameters() if value.grad is not None})
    dense, checkpointed = gradients
    assert dense.keys() == checkpointed.keys() and len(dense) > 20
    for key in dense:
        torch.testing.assert_close(checkpointed[key], dense[key], atol=1e-4, rtol=1e-5)
