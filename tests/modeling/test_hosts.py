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

"""Models around an encoder: what is put on them, and taken off again."""

import pytest
from modeling.helpers import CASES, assert_same_state, build, snapshot
from torch import nn

from optimum_pitome import apply_pitome, remove_pitome
from optimum_pitome.modeling import hosts
from optimum_pitome.modeling.hosts import Host, adapt_architectures, find_hosts, register_host, remove_hooks


HOSTS = [
    name
    for name in ("BlipForImageTextRetrieval", "Blip2ForConditionalGeneration", "LlavaForConditionalGeneration")
    if name in CASES
]


@pytest.mark.parametrize("name", HOSTS)
def test_hooks_are_put_on_once_and_all_taken_off(name):
    model, calls = build(name), []
    for module in model.modules():  # somebody's own stay
        module.register_forward_pre_hook(lambda *_: calls.append(1))
        module.register_forward_hook(lambda *_: calls.append(2), with_kwargs=False)
    before = snapshot(model)
    once = snapshot(apply_pitome(model, 0.8))
    twice = snapshot(apply_pitome(model, 0.8))
    for key, value in once.items():
        if isinstance(value, dict) and "hooks" in key[1]:
            assert len(twice[key]) == len(value), key
    assert any(len(once[key]) > len(before[key]) for key in before if "hooks" in key[1] and before[key])
    assert_same_state(remove_pitome(model), before)


def test_a_class_has_one_host(monkeypatch):
    monkeypatch.setattr(hosts, "_HOSTS", {})

    class Model(nn.Linear):
        pass

    class Derived(Model):
        pass

    host = register_host(Host(Model, lambda model: None, lambda model: None))
    with pytest.raises(ValueError, match="Model is already registered"):
        register_host(host)
    tree = nn.Sequential(nn.Linear(1, 1), Derived(1, 1), nn.Sequential(Model(1, 1)))
    assert find_hosts(tree) == [(tree[1], host), (tree[2][0], host)]


def test_a_host_adapts_the_encoders_in_one_of_its_parts(monkeypatch):
    monkeypatch.setattr(hosts, "_HOSTS", {})
    inside, outside = nn.Linear(1, 1), nn.Linear(1, 1)
    model = nn.ModuleDict({"vision": nn.Sequential(inside), "text": outside})
    other = nn.Sequential(model)
    encoders = [(inside, "vision", 1), (outside, "text", 2)]
    assert adapt_architectures(other, encoders) == encoders
    register_host(Host(nn.Sequential, None, None))  # one that adapts nothing
    register_host(Host(nn.ModuleDict, None, None, lambda model, entry, config: f"{entry} {config}", "vision"))
    assert adapt_architectures(other, encoders) == [(inside, "vision 1", 1), (outside, "text", 2)]


def test_hooks_are_removed_by_what_they_call():
    def ours(*_): ...

    def theirs(*_): ...

    module = nn.Linear(1, 1)
    before = snapshot(module)
    kept = [module.register_forward_hook(theirs), module.register_forward_pre_hook(theirs, with_kwargs=True)]
    between = snapshot(module)
    module.register_forward_hook(ours, with_kwargs=True)
    module.register_forward_pre_hook(ours)
    module.register_forward_pre_hook(ours, with_kwargs=True)
    remove_hooks(module, (ours,))
    assert_same_state(module, between)
    for handle in kept:
        handle.remove()
    assert_same_state(module, before)
