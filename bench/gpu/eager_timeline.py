"""Timelines of Hugging Face's eager decode: files of torch.profiler, with modules and without.

Ranges of modules cost host time in every call, so the idle time of the device is read from a file
without them, and which module a kernel is of from one with them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from bench.gpu.gpu_peers import Plan, experts_for_decode, filled_cache, random_ids
from bench.gpu.gpu_timing import wait
from bench.hugging_face import with_cache
from bench.models import BenchModel

_WARM = 4


@torch.no_grad()
def eager_decode(
    model: BenchModel, hugging_face: Any, plan: Plan, steps: int, modules: bool, path: Path
) -> None:
    """Write a timeline of ``steps`` steps of ``plan.batch`` sequences around ``plan.context``."""
    device = next(hugging_face.parameters()).device
    cache = filled_cache(model, hugging_face, plan, static=False)
    ids = random_ids(model, (_WARM + steps, plan.batch, 1), device).unbind(0)
    step_name = f"execute_context_0(0)_generation_{plan.batch}({plan.batch})"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    if device.type == "cpu":
        activities = activities[:1]

    def step(number: int) -> None:
        logits = hugging_face(input_ids=ids[number], **with_cache(cache)).logits[:, -1]
        logits.argmax(-1)

    with ExitStack() as stack:
        stack.enter_context(experts_for_decode(hugging_face))
        for number in range(_WARM):
            step(number)
        if modules:
            stack.enter_context(module_ranges(hugging_face))
        wait(device)
        with profile(activities=activities) as profiler:
            for number in range(_WARM, _WARM + steps):
                with record_function(step_name):  # as vLLM names its own
                    step(number)
            wait(device)
    profiler.export_chrome_trace(str(path))


@contextmanager
def module_ranges(model: nn.Module) -> Iterator[None]:
    """A range of the profiler around each call of a module, named by its path and class."""
    before = {}
    for path, module in model.named_modules():
        if path:
            before[module] = module.forward
            module.forward = _in_range(f"{path} {type(module).__name__}", module.forward)
    try:
        yield
    finally:
        for module, forward in before.items():
            module.forward = forward


def _in_range(name: str, forward: Any) -> Any:
    @functools.wraps(forward)
    def run(*arguments: Any, **keywords: Any) -> Any:
        with record_function(name):
            return forward(*arguments, **keywords)

    return run
