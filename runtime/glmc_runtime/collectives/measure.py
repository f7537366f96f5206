"""Times of all-reduces on a group: algorithms in turn, round after round, so that noise hits all.

All ranks take part in every call. What is counted, and how often, rank 0 decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from glmc_runtime.collectives.captured import calls_of, captured
from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.wire import Thunk

Case = tuple[str, int]
"""An algorithm, or what else is timed, and the bytes of its message."""
_SLICE = 1e-3
_MOST_CALLS = 100
_FEWEST_ROUNDS = 3
_FAR = 1.5
"""Times of the best of its size: a case that takes longer is measured no further."""


@dataclass
class Times:
    """Microseconds a call, one value a round, by case; those of rank 0."""

    rounds: dict[Case, list[float]] = field(default_factory=dict)

    def typical(self, case: Case) -> float:
        return median(self.rounds[case])

    def undisturbed(self, case: Case) -> float:
        """The lower quartile: what disturbs a call only ever makes it longer."""
        values = sorted(self.rounds[case])
        return values[len(values) // 4]


def measure(
    group: Group,
    thunks: Mapping[Case, Thunk],
    seconds: float,
    device: torch.device,
    *,
    drop_far: bool = False,
) -> Times:
    """Time ``thunks`` for about ``seconds`` after two calls of each; at least three rounds. A case
    that takes long is called once a round, a quick one up to 100 times. With ``drop_far`` cases
    that are far from the best of their size are left out after the third round."""
    started = time.perf_counter()
    cases = list(thunks)
    for thunk in thunks.values():
        thunk()  # memory is touched for the first time
    first = shared(group, [_time(group, thunks[case], 1, device) for case in cases], device)
    calls = {
        case: max(1, min(_MOST_CALLS, round(_SLICE / value)))
        for case, value in zip(cases, first, strict=True)
    }
    times = Times({case: [] for case in cases})
    number = 0
    while True:
        began = time.perf_counter()
        for case in cases if number % 2 == 0 else reversed(cases):
            value = _time(group, thunks[case], calls[case], device)
            times.rounds[case].append(value * 1e6)
        number += 1
        now = time.perf_counter()
        (left,) = shared(group, [seconds - (now - started) - (now - began)], device)
        if number >= _FEWEST_ROUNDS and left < 0:
            return times
        if number == _FEWEST_ROUNDS and drop_far:
            worth = shared(group, [float(case in _near(times)) for case in cases], device)
            cases = [case for case, kept in zip(cases, worth, strict=True) if kept]


def agreed(group: Group, times: Times, device: torch.device) -> dict[Case, float]:
    """The undisturbed time of each case, as rank 0 has it."""
    values = [times.undisturbed(case) for case in times.rounds]
    return dict(zip(times.rounds, shared(group, values, device), strict=True))


def _near(times: Times) -> set[Case]:
    best: dict[int, float] = {}
    for case in times.rounds:
        best[case[1]] = min(best.get(case[1], float("inf")), times.undisturbed(case))
    return {case for case in times.rounds if times.undisturbed(case) <= _FAR * best[case[1]]}


def all_reduces(
    group: Group,
    algorithms: Sequence[str],
    sizes: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    seconds: float = float("inf"),
    graphs: Collection[str] = (),
) -> dict[Case, Thunk]:
    """A thunk for each algorithm and size, bound to zeros: their sum stays what it is. The sizes
    end where calling each algorithm once for all of them takes more than ``seconds``, after two at
    the earliest. Those of ``graphs`` are captured on a card."""
    thunks: dict[Case, Thunk] = {}
    spent = 0.0
    for number, size in enumerate(sizes):
        x = zeros(size, dtype, device)
        cases = {(name, size): bound(group, x, name, graphs) for name in algorithms}
        for thunk in cases.values():
            thunk()  # memory is touched for the first time
            spent += _time(group, thunk, 1, device)
        if number >= 2 and shared(group, [spent], device)[0] > seconds:
            break
        thunks |= cases
    return thunks


def bound(group: Group, x: Tensor, name: str, graphs: Collection[str]) -> Thunk:
    """The all-reduce ``name`` of ``x``; on a card in a graph where it is one of ``graphs``."""
    thunk = group.all_reduce_of(x, name)
    return captured(thunk, x.device, name) if name in graphs else thunk


def zeros(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A message of ``size`` bytes."""
    return torch.zeros(size // dtype.itemsize, dtype=dtype, device=device)


def shared(group: Group, values: Sequence[float], device: torch.device) -> list[float]:
    """Those of rank 0, on all ranks."""
    tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
    if group.size > 1:
        group.process_group.broadcast([tensor]).wait()
    result: list[float] = tensor.tolist()
    return result


def _time(group: Group, thunk: Thunk, calls: int, device: torch.device) -> float:
    """Seconds an all-reduce, of about ``calls`` that all ranks begin at once."""
    runs = max(1, round(calls / calls_of(thunk)))
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else _return
    if runs > 1:
        thunk()  # caches and branches are those of the call before else
    group.meet()
    wait()
    started = time.perf_counter()
    for _ in range(runs):
        thunk()
    wait()
    return (time.perf_counter() - started) / (runs * calls_of(thunk))


def _return() -> None:
    """On the host a call is over when it returns."""
