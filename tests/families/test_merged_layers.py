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

"""Every registered encoder, layer by layer, against its own dense layers on sequences of full length.

To attend to a merged token, with its log size, is to attend to as many copies of it. So the dense layer, on a sequence
in which each original token has the vector and the place of its group, computes what the rewritten layer must compute;
and a merge after a layer gives each original token the mean over its new group. Nothing of the package runs in the
reference but the choice of the groups and `token_arguments`, which have tests of their own.
"""

import inspect
from dataclasses import replace

import pytest
import torch
from zoo import one_per_encoder, outputs_of

from optimum_pitome import apply_pitome
from optimum_pitome.merging.rows import take_pairs
from optimum_pitome.modeling.rewrite import rewritten_encoders
from optimum_pitome.modeling.tokens import Tokens


def first_cases():
    """One model for each encoder class, the first in which it merges."""
    found = {}
    for case in one_per_encoder():
        with torch.device("meta"):
            model = case.build()
        for encoder in rewritten_encoders(apply_pitome(model, 0.8)):
            architecture = encoder.pitome.architecture
            # After what is read no layer runs, a short prompt is another model's input, and a layer that attends by
            # itself is not seen as a whole.
            attends_by_itself = not architecture.attention_interface and architecture.attention_class is None
            if not architecture.reads and not case.shortens and not attends_by_itself:
                found.setdefault(type(encoder), case)
    return list(found.values())


CASES = first_cases()
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def rewritten(case, layers, **settings):
    model = case.build("eager")
    encoder = rewritten_encoders(apply_pitome(model, {"ratio": 0.75, "layers": layers, **settings}))[0]
    return model, encoder


def calls_of(model, layers, inputs):
    """What each of `layers` is called with (the first argument apart), and returns."""
    calls, outputs = {}, {}
    handles = []
    for index, layer in enumerate(layers):
        handles.append(
            layer.register_forward_pre_hook(
                lambda module, args, kwargs, index=index: calls.update({index: (args, dict(kwargs))}), with_kwargs=True
            )
        )
        handles.append(
            layer.register_forward_hook(lambda module, args, output, index=index: outputs.update({index: output}))
        )
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return calls, {index: output[0] if isinstance(output, tuple) else output for index, output in outputs.items()}


def required(layer):
    parameters = inspect.signature(type(layer).forward).parameters.values()
    return {parameter.name for parameter in parameters if parameter.default is parameter.empty}


class Padded:
    """Samples side by side."""

    def __init__(self, call):
        pass

    def side_by_side(self, values):
        return values

    def as_called(self, values):
        return values


class Packed:
    """Samples one after the other, or pieces of them that merge by themselves, as a merging layer is called with."""

    def __init__(self, call):
        _, kwargs = call
        self.lengths = kwargs.get("pitome_cells", kwargs["cu_seqlens"]).diff().tolist()

    def side_by_side(self, values):
        """`(T, ...)` to `(B, N, ...)`."""
        if isinstance(values, tuple):
            return tuple(map(self.side_by_side, values))
        return torch.nn.utils.rnn.pad_sequence(values.split(self.lengths), batch_first=True)

    def as_called(self, values):
        if isinstance(values, tuple):
            return tuple(map(self.as_called, values))
        return torch.cat([row[:length] for row, length in zip(values, self.lengths)])


def for_copies(call, places, architecture, layer_arguments, layout):
    """The arguments of a dense layer for tokens that stand at `places` `(B, N)`."""
    (_, *args), kwargs = call
    named = {**dict(zip(layer_arguments.names, args)), **kwargs}
    rows = places + torch.arange(len(places)).unsqueeze(1) * places.shape[1]
    tokens = Tokens(sizes=torch.ones(places.shape), rows=rows, positions=places)
    mask = named.get("attention_mask")
    if mask is not None:
        named["attention_mask"] = take_pairs(mask, places)
    for name, cut in architecture.token_arguments.items():
        if cut is not None and (name in named or name in layer_arguments.names):
            value = named.get(name)
            if value is not None or name == "position_mask":
                named[name] = layout.as_called(cut(layout.side_by_side(value), tokens))
            if isinstance(named[name], tuple) and isinstance(value, torch.Tensor):
                # timm's Eva: of all tokens for our attention, of those after the prefix for the dense one
                prefix = places.shape[1] - value.shape[-2]
                named[name] = named[name][0][:, :, prefix:]
    return named


@each_case
@pytest.mark.parametrize("layers", [[0], [1], [0, 2], [0, 1, 2]], ids=str)
def test_merged_layers_are_dense_layers_on_copies(case, layers):
    inputs = case.inputs(2)
    dense = case.build("eager")
    model, encoder = rewritten(case, layers)
    rewrite = encoder.pitome
    rewrite.specs = tuple(replace(spec, after="layer") for spec in rewrite.specs)
    architecture = rewrite.architecture
    records = {}
    rewrite.watch = lambda record: records.setdefault(record.index, record)
    path = next(name for name, module in model.named_modules() if module is encoder)
    dense_layers = architecture.find_layers(dense.get_submodule(path))
    calls, _ = calls_of(dense, dense_layers, inputs)
    calls_of_merging, found = calls_of(model, architecture.find_layers(encoder), inputs)

    hidden_states = calls[0][0][0] if calls[0][0] else calls[0][1]["hidden_states"]
    layout = (Packed if case.packed else Padded)(calls_of_merging[0])
    real = layout.side_by_side(torch.ones(hidden_states.shape[:-1], dtype=torch.bool))
    hidden_states = layout.side_by_side(hidden_states)
    batch, length, _ = hidden_states.shape
    rows = torch.arange(batch)[:, None]
    groups = places = torch.arange(length).expand(batch, -1)  # of each original token: its group, and its place
    kept = places  # of each group: its place
    merged = False
    for index, layer in enumerate(dense_layers):
        named = for_copies(calls[index], places, architecture, rewrite.layer_arguments, layout)
        named = {name: value for name, value in named.items() if value is not None or name in required(layer)}
        with torch.no_grad():
            output = layer(layout.as_called(hidden_states), **named)
        hidden_states = layout.side_by_side(output[0] if isinstance(output, tuple) else output)
        record = records.get(index)
        if record is not None and record.plan is not None:
            merged = True
            if record.tokens.valid is not None and record.tokens.sizes is None:
                real = record.tokens.valid.expand(batch, -1)
            plan = record.plan
            groups = plan.assignment.expand(batch, -1)[rows, groups]
            kept = kept[rows, plan.kept]
            places = torch.where(real, kept[rows, groups], torch.arange(length))
            means = []
            for sample in range(batch):
                same = ((groups[sample, :, None] == groups[sample]) & real[sample]).float()
                means.append(same @ hidden_states[sample] / same.sum(dim=1, keepdim=True).clamp(min=1))
            hidden_states = torch.where(real.unsqueeze(-1), torch.stack(means), hidden_states)
        copies = layout.side_by_side(found[index])
        copies = copies if architecture.layer_class.returns_every_token else copies[rows, groups]
        torch.testing.assert_close(copies[real], hidden_states[real], atol=1e-4, rtol=1e-4)
        alone = special_tokens(records, encoder, batch, length)
        same = (groups[:, :, None] == groups[:, None, :]) & real[:, None, :]
        assert (same.sum(dim=2)[alone] == 1).all()
    assert merged


def special_tokens(records, encoder, batch, length):
    """Which tokens must be in no group but their own: `(B, N)` bool."""
    special = torch.zeros(batch, length, dtype=torch.bool)
    special[:, : encoder.pitome.num_prefix_tokens] = True
    architecture = encoder.pitome.architecture
    special[:, length - architecture.count_suffix(architecture.config_of(encoder)) :] = True
    first = next((record.tokens.special for record in records.values() if record.tokens.sizes is None), None)
    return special if first is None else special | first


@each_case
def test_hidden_states_and_attentions(case):
    """Hidden states have their original length, whoever collects them; attentions are among the tokens there were."""
    model, encoder = rewritten(case, [0, 1], min_tokens=6)
    inputs = {**case.inputs(2), "output_hidden_states": True, "output_attentions": case.shows_attentions}
    with torch.no_grad():
        dense = outputs_of(case.build("eager")(**inputs))
        found = outputs_of(model(**inputs))
    assert found.keys() == dense.keys()
    states = [name for name in found if "hidden_states." in name]
    assert states and all(found[name].shape == dense[name].shape for name in states)
    shorter = [name for name in found if "attentions." in name and found[name].shape != dense[name].shape]
    shows_its_attentions = type(model).__module__ == type(encoder).__module__
    assert shorter or not shows_its_attentions


@each_case
def test_the_two_halves_are_the_layer(case):
    model, encoder = rewritten(case, [0])
    inputs = case.inputs(2)
    layer = encoder.pitome.architecture.find_layers(encoder)[1]
    dense = case.build("eager")
    path = next(name for name, module in model.named_modules() if module is layer)
    calls, outputs = calls_of(dense, [dense.get_submodule(path)], inputs)
    args, kwargs = calls[0]
    with torch.no_grad():
        found = layer.mlp_half(layer.attention_half(*args, **kwargs))
    torch.testing.assert_close(found, outputs[0], atol=1e-5, rtol=1e-5)
