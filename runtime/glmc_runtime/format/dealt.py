"""How a value of a plan is dealt to the ranks that run it, as ``values.json`` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Run = tuple[int | None, int]


@dataclass(frozen=True)
class Dealt:
    """Each rank has a summand of the value, or, where ``axis`` is one of its dimensions, some of
    the ``entries`` that the ranks have there together. ``runs`` are then, for each rank, first
    entry and length of what follows one another; without a first entry it only fills up."""

    axis: int | None = None
    entries: int = 0
    runs: tuple[tuple[Run, ...], ...] = ()


def dealt_to_json(dealt: Dealt | None) -> dict[str, Any] | None:
    """Plain data; None of what each rank has whole."""
    if dealt is None:
        return None
    return {**vars(dealt), "runs": [[list(run) for run in runs] for runs in dealt.runs]}


def dealt_from_json(data: Any) -> Dealt | None:
    """The other way round; what is of other kinds is for :func:`.records.misfit` to find."""
    if data is None:
        return None
    runs = tuple(tuple(map(tuple, each)) for each in data["runs"])
    return Dealt(**{**data, "runs": runs})


def impossible_dealt(dealt: Dealt, shape: Sequence[str]) -> str | None:
    """What can't be of a value that has ``shape`` on each rank; None where nothing is."""
    if dealt.axis is None:
        return None if dealt == Dealt() else " has runs along no axis"
    if not 0 <= dealt.axis < len(shape):
        return f".axis is {dealt.axis} of {len(shape)} dimensions"
    size = shape[dealt.axis]
    for runs in dealt.runs:
        if any(_outside(run, dealt.entries) for run in runs):
            return " has a run of other entries than there are"
        if str(sum(length for _, length in runs)) != size:
            return f" has runs of another length than {size[:60]!r}"
    there = sorted(
        (start, length) for runs in dealt.runs for start, length in runs if start is not None
    )
    end = 0
    for start, length in there:
        if start > end:
            break
        end = max(end, start + length)
    return (
        None if end == dealt.entries else f" has runs that are not all of {dealt.entries} entries"
    )


def _outside(run: Run, entries: int) -> bool:
    start, length = run
    return length < 1 or (start is not None and not 0 <= start <= entries - length)
