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

"""What no machine without a GPU can tell of the fused kernels: whether they are right there, how often they are
launched, and what they are worth. Under two minutes on one NVIDIA GPU:

    python tests/kernels/device_check.py

It ends with 1 if a kernel differs from PyTorch. `--tiny` goes through the same steps on a CPU, in Triton's interpreter
(`TRITON_INTERPRET=1`), to try the script itself.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
import traceback
from collections.abc import Callable

import torch
import triton
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import ViTConfig, ViTModel

from optimum_pitome import PiToMeConfig, apply_pitome, pitome_disabled, use_attention_form, use_kernels
from optimum_pitome.kernels import choice
from optimum_pitome.merging import KeepRatio, MergeSpec, TokenMasks, class_attention, match_tokens, merge_tokens
from optimum_pitome.merging.algorithms import match_pitome
from optimum_pitome.merging.fused import FusedPlan
from optimum_pitome.modeling.attention_forms import add_channels, score_function


BFLOAT16, FLOAT16, FLOAT32 = "bfloat16", "float16", "float32"
#: Of the comparisons before first use: dtype and width, then the flags of the variant.
MATCHES = (
    ("nearest", BFLOAT16, 64, False, False, False, False),
    ("nearest", BFLOAT16, 64, True, True, True, True),
    ("nearest", FLOAT16, 80, True, False, False, False),
    ("nearest", FLOAT32, 768, False, True, False, False),
    ("tome", BFLOAT16, 384, True, True, True, False),
    ("paper", FLOAT32, 64, False, False, False, False),
)
MERGES = (
    ("sizes", BFLOAT16, 768, False, False, False, False, False),
    ("attention", BFLOAT16, 768, True, True, True, True, True),
    ("nothing", FLOAT32, 1152, False, True, True, False, False),
)
ATTENTIONS = ((BFLOAT16, 64, "none", False), (BFLOAT16, 64, BFLOAT16, False), (FLOAT32, 80, "allowed", True))


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def attempt(name: str, function: Callable[[], None]) -> bool:
    """Whether `function` ran without an error, which is shown."""
    start = time.perf_counter()
    try:
        function()
    except Exception:
        say(f"FAILED  {name}\n{traceback.format_exc()}")
        return False
    say(f"ok      {name} ({time.perf_counter() - start:.1f} s with compiling)")
    return True


def check_plans(device: torch.device, num_tokens: int, batch_size: int) -> None:
    """Plans of exact inputs, with many ties, are those of PyTorch on a CPU."""
    generator = torch.Generator().manual_seed(num_tokens)
    # Cosines of such vectors are multiples of 1/32.
    features = torch.randint(0, 2, (batch_size, num_tokens, 64), generator=generator) * 2.0 - 1.0
    spec = MergeSpec(KeepRatio.from_float(0.85))
    lengths = torch.randint(num_tokens // 2, num_tokens + 1, (batch_size, 1), generator=generator)
    valid = torch.arange(num_tokens) < lengths
    for mask in (None, valid):
        expected = match_pitome(features, spec, TokenMasks(1, mask))
        on_device = TokenMasks(1, None if mask is None else mask.to(device))
        plan = match_tokens(features.to(device).unsqueeze(1), spec, on_device)
        assert isinstance(plan, FusedPlan), "the kernels were not chosen"
        for name in ("rows", "kept"):
            assert torch.equal(getattr(plan, name).cpu(), getattr(expected, name)), name


def milliseconds(function: Callable[[], object], device: torch.device, rounds: int) -> float:
    """The median of `rounds` runs, each waited for."""
    found = []
    for _ in range(rounds + 3):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        found.append(1e3 * (time.perf_counter() - start))
    return statistics.median(found[3:])


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def merge_step(device: torch.device, batch_size: int, num_tokens: int, heads: int, dtype: torch.dtype) -> Callable:
    """All that merging adds to a layer after the first merge, with importance."""
    shape = batch_size, num_tokens, heads, 64
    query, key = (torch.randn(shape, device=device, dtype=dtype).transpose(1, 2) for _ in range(2))
    hidden_states = torch.randn(batch_size, num_tokens, heads * 64, device=device, dtype=dtype)
    sizes = torch.ones(batch_size, num_tokens, device=device)
    bias, spec = sizes.log().to(dtype)[:, None, None], MergeSpec(KeepRatio.from_float(0.9), importance=0.5)
    rows = torch.arange(batch_size * num_tokens, device=device).view(batch_size, num_tokens)

    @torch.no_grad()
    def run():
        masks = TokenMasks(1, attention=class_attention(query, key, bias, None, 0.125))
        plan = match_tokens(key, spec, masks)
        found = merge_tokens(plan, hidden_states, sizes, rows, None, None, None, True)
        if found is None:
            merged_sizes = plan.merge_sizes(sizes)
            merged = plan.merge(hidden_states, sizes, merged_sizes)
            return merged, merged_sizes.log().to(dtype), plan.rows.flatten()[rows]
        return found

    return run


def captured(run: Callable, device: torch.device) -> Callable:
    """`run` as a CUDA graph."""
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def count_launches(function: Callable, device: torch.device) -> int:
    """Kernels that ran on the device, copies and fills included."""
    function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        synchronize(device)
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


def without_kernels(function: Callable) -> Callable:
    def run():
        use_kernels(False)
        try:
            return function()
        finally:
            use_kernels(True)

    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="try the script on a CPU, in Triton's interpreter")
    tiny = parser.parse_args().tiny
    device = torch.device("cpu") if tiny else torch.device("cuda", torch.cuda.current_device())
    if tiny:
        choice.backend, name = (lambda device: "triton"), "the interpreter"
    else:
        name = f"{torch.cuda.get_device_name(device)}, capability {torch.cuda.get_device_capability(device)}"
    say(f"{name}, torch {torch.__version__}, Triton {triton.__version__}, CUDA {torch.version.cuda}")
    if choice.backend(device) != "triton":
        raise SystemExit("The kernels do not run on this device: see docs/kernels.md.")
    # The interpreter does not round to bfloat16 as devices do.
    dtype, rounds = (torch.float32, 1) if tiny else (torch.bfloat16, 50)
    passed = compare(device, tiny)
    time_merge_step(
        device, dtype, rounds, ((1, 20),) if tiny else ((1, 197), (8, 197), (64, 197), (8, 577), (2, 1500))
    )
    time_model(device, dtype, rounds, tiny)
    passed += compare_attention(device, dtype, tiny)
    time_attention(device, dtype, rounds, tiny)
    say(f"\n{sum(passed)} of {len(passed)} comparisons passed; {len(choice._given_up)} devices were given up")
    return 0 if all(passed) and not choice._given_up else 1


def compare(device: torch.device, tiny: bool) -> list[bool]:
    """Which comparisons pass."""
    say("\nComparisons with PyTorch")
    passed = []
    with torch.no_grad():
        for kind, variants in (("match", MATCHES), ("merge", MERGES), ("class_attention", ATTENTIONS)):
            for variant in variants[-1:] if tiny else variants:
                run = functools.partial(choice.COMPARISONS[kind], device, *variant)
                passed.append(attempt(f"{kind} {variant}", run))
        for num_tokens, batch_size in ((40, 2),) if tiny else ((197, 64), (577, 8), (1500, 2), (33, 3), (12, 1)):
            run = functools.partial(check_plans, device, num_tokens, batch_size)
            passed.append(attempt(f"plans of {num_tokens} tokens", run))
    return passed


def time_merge_step(device: torch.device, dtype: torch.dtype, rounds: int, shapes: tuple) -> None:
    say(f"\nThe merge step of one layer, {dtype}, 12 heads of 64: milliseconds")
    say(f"{'batch':>5} {'tokens':>6} {'PyTorch':>9} {'kernels':>9} {'graph of PyTorch':>17} {'graph of kernels':>17}")
    for batch_size, num_tokens in shapes:
        fused = merge_step(device, batch_size, num_tokens, 12, dtype)
        plain = without_kernels(fused)
        times = [milliseconds(run, device, rounds) for run in (plain, fused)]
        if device.type == "cuda":
            use_kernels(False)
            replays = [captured(fused, device)]
            use_kernels(True)
            replays.append(captured(fused, device))
            times += [milliseconds(run, device, rounds) for run in replays]
        say(f"{batch_size:>5} {num_tokens:>6}" + "".join(f"{t:>{w}.4f}" for t, w in zip(times, (10, 10, 18, 18))))


def attention_forms(device: torch.device, dtype: torch.dtype, batch_size: int, num_tokens: int, dim: int):
    """Queries, keys and values, log sizes, and attention in each form, as functions of the three."""
    generator = torch.Generator().manual_seed(num_tokens)
    shape = batch_size, num_tokens, 12, dim
    inputs = [torch.randn(shape, generator=generator).to(device, dtype).transpose(1, 2) for _ in range(3)]
    log_sizes = torch.randint(1, 300, (batch_size, num_tokens), generator=generator).float().log().to(device)
    on_gpu = device.type == "cuda"
    bias, scores = log_sizes.to(dtype)[:, None, None], score_function(log_sizes[:, None, None])
    flex = torch.compile(flex_attention) if on_gpu else flex_attention

    def by_channels(query, key, value):
        wide = add_channels(query, key, value, log_sizes, dim**-0.5)
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION] if on_gpu else [SDPBackend.MATH]):  # fails where it cannot run
            return scaled_dot_product_attention(*wide, scale=dim**-0.5)[..., :dim]

    return (
        inputs,
        log_sizes,
        {
            "no sizes": scaled_dot_product_attention,
            "mask": lambda *given: scaled_dot_product_attention(*given, attn_mask=bias),
            "channels": by_channels,
            "scores": lambda *given: flex(*given, score_mod=scores),
        },
    )


def compare_attention(device: torch.device, dtype: torch.dtype, tiny: bool) -> list[bool]:
    """Which forms are as near to float64 as the mask form, forward and backward."""
    say("\nForms of attention with log sizes, against float64: mean squared errors")
    passed = []
    for batch_size, num_tokens, dim in ((2, 20, 16),) if tiny else ((2, 197, 64), (2, 600, 80), (1, 1024, 64)):
        inputs, log_sizes, forms = attention_forms(device, dtype, batch_size, num_tokens, dim)
        exact = [tensor.double().requires_grad_() for tensor in inputs]
        expected = scaled_dot_product_attention(*exact, attn_mask=log_sizes.double()[:, None, None])
        weights = torch.randn_like(expected)
        wanted = [expected, *torch.autograd.grad((expected * weights).sum(), exact)]
        errors = {}

        def measure(name):
            given = [tensor.detach().requires_grad_(not (tiny and name == "scores")) for tensor in inputs]
            found = [forms[name](*given)]
            if given[0].requires_grad:  # FlexAttention has no gradients on CPUs
                found += torch.autograd.grad((found[0] * weights.to(dtype)).sum(), given)
            errors[name] = [(one.double() - other).square().mean().item() for one, other in zip(found, wanted)]
            limit = [1.25 * error + 1e-12 for error in errors["mask"]]
            assert all(error <= most for error, most in zip(errors[name], limit)), (errors[name], errors["mask"])

        for name in ("mask", "channels", "scores"):
            label = f"{name}, {num_tokens} tokens, heads of {dim}"
            passed.append(attempt(label, functools.partial(measure, name)))
            say("        " + ", ".join(f"{error:.3g}" for error in errors.get(name, [])))
    return passed


def time_attention(device: torch.device, dtype: torch.dtype, rounds: int, tiny: bool) -> None:
    names = ("no sizes", "mask", "channels", "scores")
    say(f"\nAttention of one layer, {dtype}, 12 heads of 64: milliseconds")
    say(f"{'batch':>5} {'tokens':>6}" + "".join(f"{name:>10}" for name in names))
    for batch_size, num_tokens in ((1, 20),) if tiny else ((64, 128), (64, 197), (32, 400), (16, 577), (8, 1024)):
        inputs, _, forms = attention_forms(device, dtype, batch_size, num_tokens, 64)
        with torch.no_grad():
            times = [milliseconds(functools.partial(forms[name], *inputs), device, rounds) for name in names]
        say(f"{batch_size:>5} {num_tokens:>6}" + "".join(f"{time:>10.4f}" for time in times))
    size = 64 if tiny else 448
    small = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    model = ViTModel(ViTConfig(image_size=size, **(small if tiny else {}))).to(device, dtype).eval()
    model, pixels = apply_pitome(model, 0.95), torch.randn(2, 3, size, size, device=device, dtype=dtype)
    with torch.no_grad():
        for form in ("mask", "channels", "auto"):
            use_attention_form(form)
            say(f"a ViT at {size} pixels, {form}: {milliseconds(lambda: model(pixels), device, rounds):.3f} ms")


def time_model(device: torch.device, dtype: torch.dtype, rounds: int, tiny: bool) -> None:
    layers = 2 if tiny else 12
    small = {"num_hidden_layers": layers, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    config = ViTConfig(**small, image_size=64) if tiny else ViTConfig()
    model = apply_pitome(ViTModel(config).to(device, dtype).eval(), PiToMeConfig(ratio=0.9))
    say(f"\n{'A small ViT' if tiny else 'ViT-B/16'}, ratio 0.9 in each of {layers} layers, {dtype}: milliseconds")
    say(f"{'batch':>5} {'dense':>9} {'PyTorch':>9} {'kernels':>9} {'speed-up':>9} {'with kernels':>13}")
    for batch_size in (1,) if tiny else (1, 8, 64):
        pixels = torch.randn(batch_size, 3, config.image_size, config.image_size, device=device, dtype=dtype)
        fused = torch.no_grad()(functools.partial(model, pixels))

        def dense():
            with pitome_disabled(model):
                return fused()

        plain = without_kernels(fused)
        first, second, third = (milliseconds(run, device, rounds) for run in (dense, plain, fused))
        numbers = f"{first:>9.3f} {second:>9.3f} {third:>9.3f} {first / second:>8.2f}x {first / third:>12.2f}x"
        say(f"{batch_size:>5} {numbers}")
        if device.type == "cuda" and batch_size == 1:
            counts = [count_launches(run, device) for run in (dense, plain, fused)]
            added = [(count - counts[0]) / layers for count in counts[1:]]
            say(f"      launches that a merging layer adds: PyTorch {added[0]:.1f}, kernels {added[1]:.1f}")


if __name__ == "__main__":
    sys.exit(main())
