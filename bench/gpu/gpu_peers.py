"""Hugging Face's decode and prefill: eager, and compiled over a static cache.

A cache is filled with random keys and values, not by a prefill; ours gets the same numbers. Random
token ids are fed, and the next ids are chosen (argmax) on the device, but never read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from bench.gpu.gpu_timing import Peak, host_times, wait
from bench.hugging_face import with_cache
from bench.models import BenchModel

# How a peer compiles the forward; None runs it as it is.
MODES: dict[str, str | None] = {
    "eager": None,
    "compile": "reduce-overhead",
    "max-autotune": "max-autotune",
}


@dataclass(frozen=True)
class Plan:
    """What is measured: ``repeats`` runs of ``steps`` steps around ``context`` tokens."""

    batch: int
    context: int
    repeats: int = 3
    steps: int = 20
    warm: int = 6

    @property
    def total(self) -> int:
        return self.warm + self.repeats * self.steps

    @property
    def first(self) -> int:
        """Tokens in the cache before the first step, so that ``context`` is the middle."""
        return self.context - self.total // 2

    @property
    def longest(self) -> int:
        return -(-(self.first + self.total + 1) // 8) * 8


def random_rows(
    model: BenchModel, layer: int, batch: int, context: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Keys and values [batch, heads, context, head_dim] of a layer; the same for the same shape."""
    config = model.config
    shape = (batch, config["num_key_value_heads"], context, config["head_dim"])
    generator = torch.Generator(device).manual_seed(1000 + layer)
    rows = torch.empty((2, *shape), dtype=torch.bfloat16, device=device)
    keys, values = rows.normal_(generator=generator)
    return keys, values


def random_ids(model: BenchModel, shape: tuple[int, ...], device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(2, model.config["vocab_size"], shape, generator=generator).to(device)


def filled_cache(model: BenchModel, hugging_face: Any, plan: Plan, static: bool) -> Any:
    """A cache of Hugging Face's with random keys and values of ``plan.first`` tokens."""
    device = next(hugging_face.parameters()).device
    if static:
        cache = transformers.StaticCache(config=hugging_face.config, max_cache_len=plan.longest)
    else:
        cache = transformers.DynamicCache(config=hugging_face.config)
    for layer in range(model.layers):
        cache.update(*random_rows(model, layer, plan.batch, plan.first, device), layer)
    return cache


@contextlib.contextmanager
def experts_for_decode(hugging_face: Any) -> Iterator[str | None]:
    """The spelling of the experts that ``generate`` switches to while it decodes on a device."""
    config = hugging_face.config
    before = getattr(config, "_experts_implementation", None)
    routed = bool(getattr(config, "num_local_experts", None))
    on_device = next(hugging_face.parameters()).device.type != "cpu"
    if not (routed and on_device and before == "grouped_mm"):
        yield before if routed else None
        return
    hugging_face.set_experts_implementation("batched_mm")
    try:
        yield "batched_mm"
    finally:
        hugging_face.set_experts_implementation(before)


@torch.no_grad()
def decode(model: BenchModel, hugging_face: Any, peer: str, plan: Plan) -> dict[str, Any]:
    """Measure one peer: times per step, seconds of the first call, memory beside the weights, the
    first logits."""
    device = next(hugging_face.parameters()).device
    mode = MODES[peer]
    cleared()
    peak = Peak(device)
    cache = filled_cache(model, hugging_face, plan, static=mode is not None)
    ids = random_ids(model, (plan.total, plan.batch, 1), device).unbind(0)
    forward = hugging_face.forward
    if mode is not None:
        forward = torch.compile(forward, mode=mode, dynamic=False, fullgraph=True)
    count = 0

    def step() -> Tensor:
        nonlocal count
        if mode is not None:
            torch.compiler.cudagraph_mark_step_begin()
        result = forward(input_ids=ids[count], **with_cache(cache))
        logits: Tensor = result.logits[:, -1]
        logits.argmax(-1)
        count += 1
        return logits

    with experts_for_decode(hugging_face) as experts:
        wait(device)
        started = time.perf_counter()
        logits = step().float().cpu()
        first = time.perf_counter() - started
        for _ in range(plan.warm - 1):
            step()
        times = host_times(step, device, plan.repeats, plan.steps)
    more = {"first_s": first, "peak_gib": peak.gib, "experts": experts}
    return {"times": times, "logits": logits, "more": more}


@torch.no_grad()
def prefill(model: BenchModel, hugging_face: Any, tokens: int, repeats: int) -> dict[str, Any]:
    """Eager prefill of one prompt to the logits of its last token."""
    device = next(hugging_face.parameters()).device
    ids = random_ids(model, (1, tokens), device)
    peak = Peak(device)

    def step() -> None:
        hugging_face(input_ids=ids, use_cache=True, logits_to_keep=1)

    started = time.perf_counter()
    step()
    wait(device)
    first = time.perf_counter() - started
    step()
    times = host_times(step, device, repeats, 1)
    return {"times": times, "more": {"first_s": first, "peak_gib": peak.gib}}


def cleared() -> None:
    """Forget compiled code and the memory of its graphs."""
    torch._dynamo.reset()
    if torch.cuda.is_available():
        with contextlib.suppress(ImportError, AttributeError):
            from torch._inductor.cudagraph_trees import reset_cudagraph_trees

            reset_cudagraph_trees()
        torch.cuda.empty_cache()
