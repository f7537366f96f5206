"""Steps and calls of a recording, as plain data; times are microseconds on one clock."""

from __future__ import annotations

from dataclasses import dataclass

from glmc_runtime.replay.bound_step import Sizes
from glmc_runtime.replay.step import Step
from glmc_runtime.replay.timeline.timer import Place


@dataclass(frozen=True)
class StepSizes:
    """``tokens`` of ``sequences`` are computed in ``rows`` rows, padding included. ``context`` are
    the tokens that all sequences have in the cache after it, ``keys`` the pairs of a query and a
    key; None where the step does not say."""

    tokens: int
    sequences: int
    rows: int
    context: int | None
    keys: int | None


def sizes_of(step: Sizes) -> StepSizes:
    """The sizes of a step; one of an outer engine has its lengths on the device."""
    context = keys = None
    if isinstance(step, Step):
        lengths = [(len(chunk.tokens), chunk.start) for chunk in step.chunks]
        context = sum(new + start for new, start in lengths)
        keys = sum(new * start + new * (new + 1) // 2 for new, start in lengths)
    real = step.real
    return StepSizes(real["tokens"], real["sequences"], step.sizes["tokens"], context, keys)


@dataclass(frozen=True)
class StepTime:
    """A step on the host, from its inputs to the last launch."""

    number: int
    phase: str
    sizes: StepSizes
    replayed: bool
    guarded: bool
    begin: float
    end: float


@dataclass(frozen=True)
class CallTime:
    """What ran on a ``stream`` of a ``device``, for a call of step ``step`` or beside the calls.

    ``step`` is None for what no step asked for, and ``place`` None where it is not known what it
    was for. ``kernels`` are those of the device with their microseconds, as far as it tells them.
    ``overlap``: how long it ran beside the one before it on the stream; ``begin`` is after that.
    ``launch``: the host's launch began and had returned, and its ``correlation``.
    """

    step: int | None
    place: Place | None
    begin: float
    end: float
    device: int = 0
    stream: int = 0
    kernels: tuple[tuple[str, float], ...] = ()
    overlap: float = 0.0
    launch: tuple[float, float] | None = None
    correlation: int | None = None


@dataclass(frozen=True)
class Recording:
    """``attribution`` is "exact", or why calls are not known of some of what ran."""

    steps: tuple[StepTime, ...]
    calls: tuple[CallTime, ...]
    attribution: str
