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

"""`generate` on a short prompt, with the contract of the long one: what it returns starts with the prompt it got."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from ...modeling.signatures import by_name
from .counts import base_of
from .prompt import apply_plan, plan_inputs


class RestoredPrompt:
    """Gives the caller's own code the sequences that it expects: the original prompt, then the new tokens.

    Attributes:
        prompt (`torch.LongTensor` of shape `(B, L)`): the caller's.
        short_length (`int`): tokens of the prompt that the model sees.
    """

    def __init__(self, prompt: torch.Tensor, short_length: int):
        self.prompt, self.short_length = prompt, short_length

    def __call__(self, sequences: torch.Tensor) -> torch.Tensor:
        """`(rows, n)` to `(rows, L + n - short_length)`; rows are the samples, or equally many beams of each."""
        prompt = self.prompt.to(sequences.device).repeat_interleave(len(sequences) // len(self.prompt), dim=0)
        return torch.cat([prompt, sequences[:, self.short_length :]], dim=1)


class _RestoringProcessor(LogitsProcessor):
    def __init__(self, processor: Any, restore: RestoredPrompt):
        self.processor, self.restore = processor, restore

    def __call__(self, input_ids, scores):
        return self.processor(self.restore(input_ids), scores)


class _RestoringCriteria(StoppingCriteria):
    def __init__(self, criteria: Any, restore: RestoredPrompt):
        self.criteria, self.restore = criteria, restore

    def __call__(self, input_ids, scores, **kwargs):
        return self.criteria(self.restore(input_ids), scores, **kwargs)


class _RestoringStreamer:
    """Streams the caller's prompt first, then the new tokens."""

    def __init__(self, streamer: Any, restore: RestoredPrompt):
        self.streamer, self.prompt = streamer, restore.prompt.cpu()

    def put(self, value: torch.Tensor) -> None:
        value, self.prompt = (value if self.prompt is None else self.prompt), None
        self.streamer.put(value)

    def end(self) -> None:
        self.streamer.end()


def generate_with_short_prompt(generate):
    """Wraps the `generate` of a LLaVA class. On a model that does not merge it is the original.

    The prompt is cut down before anything is computed from it, so that prefill, cache, beams and assistants all work
    on short sequences. What comes back, and what the caller's processors, criteria and streamers see, is the prompt
    as it was given, followed by the new tokens. `past_key_values`, `attentions` and `hidden_states` are those of the
    short sequences.
    """

    def generate_short(self, *args, **kwargs):
        arguments = by_name(generate, args, kwargs)
        if arguments.get("inputs") is not None and arguments.get("input_ids") is None:
            arguments["input_ids"] = arguments.pop("inputs")
        plan = None if arguments.get("cache_implementation") == "paged" else plan_inputs(base_of(self), arguments)
        if plan is None:
            return generate(self, *args, **kwargs)
        if plan.padding is not None and arguments.get("attention_mask") is None:
            raise ValueError(
                "The rows of this batch hold different numbers of images, so they lose different numbers of tokens "
                "and need new padding: pass the processor's attention_mask to generate."
            )
        prompt = arguments.get("input_ids")
        short = apply_plan(plan, arguments)
        _shift_lengths(self, short, plan.dropped_before.shape[1] - plan.columns.shape[1])
        if prompt is None:  # inputs_embeds only: sequences hold the new tokens alone
            return generate(self, **short)
        restore = RestoredPrompt(prompt, short["input_ids"].shape[1])
        _restore_for_callers(short, restore)
        output = generate(self, **short)
        if isinstance(output, torch.Tensor):
            return restore(output)
        output.sequences = restore(output.sequences)
        return output

    return generate_short


def _shift_lengths(model: Any, arguments: dict[str, Any], removed: int) -> None:
    """Lengths that count the prompt keep allowing the same number of new tokens."""
    for name, relative in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if _setting(model, arguments, relative) is None and (length := _setting(model, arguments, name)):
            arguments[name] = length - removed


def _setting(model: Any, arguments: dict[str, Any], name: str) -> Any:
    sources = (arguments.get("generation_config"), model.generation_config)
    values = [arguments.get(name), *(getattr(source, name, None) for source in sources)]
    return next((value for value in values if value is not None), None)


def _restore_for_callers(arguments: dict[str, Any], restore: RestoredPrompt) -> None:
    """Wraps what the caller passed in to look at the sequences."""
    processors, criteria = arguments.get("logits_processor"), arguments.get("stopping_criteria")
    if processors is not None:
        arguments["logits_processor"] = LogitsProcessorList(_RestoringProcessor(item, restore) for item in processors)
    if criteria is not None:
        arguments["stopping_criteria"] = StoppingCriteriaList(_RestoringCriteria(item, restore) for item in criteria)
    allowed_tokens = arguments.get("prefix_allowed_tokens_fn")
    if allowed_tokens is not None:
        arguments["prefix_allowed_tokens_fn"] = lambda batch_id, sequence: allowed_tokens(
            batch_id, torch.cat([restore.prompt[batch_id].to(sequence.device), sequence[restore.short_length :]])
        )
    if arguments.get("streamer") is not None:
        arguments["streamer"] = _RestoringStreamer(arguments["streamer"], restore)
