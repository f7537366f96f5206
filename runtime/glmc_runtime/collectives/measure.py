"""Times of all-reduces on a group: algorithms in turn, round after round, so that noise hits all.

All ranks take part in every call. What is counted, and how often, rank 0 decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.wire import Thunk

Case = tuple[str, int]
"""An algorithm, or what else is timed, and the bytes of its message."""
_SLICE = 2e-3
_MOST_CALLS = 20
_FEWEST_ROUNDS = 3


@dataclass
class Times:
    """Microseconds a call, one value a round, by case; those of rank 0."""

    rounds: dict[Case, list[float]] = field(default_factory=dict)

    def typical(self, case: Case) -> float:
        return median(self.rounds[case])


def measure(
    group: Group,
    thunks: Mapping[Case, Thunk],
    seconds: float,
    device: torch.device,
    most_rounds: int = 1000,
) -> Times:
    """Time ``thunks`` for about ``seconds`` after one call of each; at least three rounds. A case
    that takes long is called once a round, a quick one up to 20 times."""
    first = shared(group, [_time(group, thunk, 1, device) for thunk in thunks.values()], device)
    started = time.perf_counter()
    calls = [max(1, min(_MOST_CALLS, round(_SLICE / value))) for value in first]
    times = Times({case: [] for case in thunks})
    for number in range(most_rounds):
        values = [
            _time(group, thunk, count, device)
            for thunk, count in zip(thunks.values(), calls, strict=True)
        ]
        for case, value in zip(thunks, values, strict=True):
            times.rounds[case].append(value * 1e6)
        spent = time.perf_counter() - started
        left = seconds - spent - spent / (number + 1)
        if shared(group, [left], device)[0] < 0 and number + 1 >= _FEWEST_ROUNDS:
            break
    return times


def all_reduces(
    group: Group,
    algorithms: Sequence[str],
    sizes: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
) -> dict[Case, Thunk]:
    """A thunk for each algorithm and message, bound to zeros."""
    return {
        (name, size): group.all_reduce_of(zeros(size, dtype, device), name)
        for size in sizes
        for name in algorithms
    }


def zeros(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A message of ``size`` bytes whose sum stays what it is."""
    return torch.zeros(size // dtype.itemsize, dtype=dtype, device=device)


def shared(group: Group, values: Sequence[float], device: torch.device) -> list[float]:
    """Those of rank 0, on all ranks."""
    tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
    if group.size > 1:
        group.process_group.broadcast([tensor]).wait()
    result: list[float] = tensor.tolist()
    return result


def _time(group: Group, thunk: Thunk, calls: int, device: torch.device) -> float:
    """Seconds a call, of ``calls`` after all ranks have met."""
    shared(group, [0.0], device)
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else _return
    wait()
    started = time.perf_counter()
    for _ in range(calls):
        thunk()
    wait()
    return (time.perf_counter() - started) / calls


def _return() -> None:
    """On the host a call is over when it returns."""
