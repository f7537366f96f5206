"""Functions that run where the engine has its model."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn

from bench.spread import BIAS, draw
from glmc_runtime.format.phases import DECODE

_CALLS = ("forward", "compute_logits")
_times: dict[str, list[float]] = {}
_steps: list[tuple[int, int, int, Any, Any]] = []


def spread(model: nn.Module, bias: float = BIAS) -> int:
    """Weights of a useful spread in place of an engine's dummies, all of which are within 0.001."""
    parameters = [(name, each) for name, each in model.named_parameters() if each.numel()]
    for number, (name, each) in enumerate(parameters):
        generator = torch.Generator(each.device).manual_seed(number)
        if each.is_floating_point():
            draw(name, each.data, generator, bias)
    return sum(each.numel() for _, each in parameters)


def timed_calls(model: nn.Module) -> bool:
    """Have the host's time within the model's calls measured from now on."""
    for name in _CALLS:
        _times[name] = []
        setattr(model, name, _timed(getattr(model, name), _times[name]))
    return True


def times_of_calls(model: nn.Module) -> dict[str, float]:
    """The median of each call in milliseconds, and of the launch of a decode step's device graph
    alone, where plans serve; nothing is measured after it."""
    found = {"graph launch": _graph_launch(model)}
    for name in _CALLS:
        found[name] = median(_times[name]) * 1e3
        delattr(model, name)
    return found


def timed_steps(worker: Any) -> bool:
    """Have the device's time within each step of an engine's worker measured from now on."""
    runner, _steps[:] = worker.model_runner, []
    if not torch.cuda.is_available():
        return False
    execute = runner.execute_model

    def measured(scheduled: Any, *arguments: Any, **options: Any) -> Any:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        found = execute(scheduled, *arguments, **options)
        end.record()
        counts = list(scheduled.num_scheduled_tokens.values())
        if counts:
            _steps.append((sum(counts), len(counts), counts.count(1), begin, end))
        return found

    runner.execute_model = measured
    return True


def times_of_steps(worker: Any) -> list[tuple[int, int, int, float]]:
    """New tokens, sequences, those of them that have one new token, and milliseconds on the device
    from the beginning of a step until its model has run, waits for the host among them; nothing is
    measured after it."""
    if not torch.cuda.is_available():
        return []
    torch.cuda.synchronize()
    del worker.model_runner.execute_model
    return [(*sizes, float(begin.elapsed_time(end))) for *sizes, begin, end in _steps]


def _graph_launch(model: nn.Module) -> float:
    """Milliseconds of the host to launch the graph of a decode step of one sequence."""
    served: Any = getattr(model, "_served", None)
    if served is None or not torch.cuda.is_available():
        return 0.0
    graphs: Any = served._attached._replays[DECODE.key]._captured[1][0]
    times: list[float] = []
    for _ in range(20):
        torch.cuda.synchronize()
        started = perf_counter()
        for graph in graphs:
            graph()
        times.append(perf_counter() - started)
    torch.cuda.synchronize()
    return median(times) * 1e3


def _timed(call: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
    def measured(*arguments: Any, **options: Any) -> Any:
        started = perf_counter()
        found = call(*arguments, **options)
        times.append(perf_counter() - started)
        return found

    return measured
