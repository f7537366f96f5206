"""Functions that run where the engine has its model."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import nn

_CALLS = ("forward", "compute_logits")
_times: dict[str, list[float]] = {}


def spread(model: nn.Module) -> int:
    """Weights of a useful spread in place of an engine's dummies, which lie within 0.001."""
    parameters = [(name, each) for name, each in model.named_parameters() if each.numel()]
    for number, (name, each) in enumerate(parameters):
        generator = torch.Generator(each.device).manual_seed(number)
        if "norm" in name:
            each.data.fill_(1.0)
        elif each.is_floating_point():
            each.data.normal_(0.0, 0.02, generator=generator)
    return sum(each.numel() for _, each in parameters)


def timed_calls(model: nn.Module) -> bool:
    """Have the host's time within the model's calls measured from now on."""
    for name in _CALLS:
        _times[name] = []
        setattr(model, name, _timed(getattr(model, name), _times[name]))
    return True


def times_of_calls(model: nn.Module) -> dict[str, float]:
    """The median of each call in milliseconds; nothing is measured after it."""
    found = {}
    for name in _CALLS:
        values = torch.tensor(_times[name], dtype=torch.float64)
        found[name] = float(values.median()) * 1e3
        delattr(model, name)
    return found


def _timed(call: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
    def measured(*arguments: Any, **options: Any) -> Any:
        started = perf_counter()
        found = call(*arguments, **options)
        times.append(perf_counter() - started)
        return found

    return measured
