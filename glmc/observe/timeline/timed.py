"""Reads the times of a compile's calls: from the page of a timeline, or from a trace of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glmc.errors import UsageError
from glmc.observe.history.ids import Place, whole_id
from glmc.observe.history.record import History, PlanHistory
from glmc.observe.page.embedded import (
    TIMELINE,
    WRITTEN_BY,
    content_of,
    embedded_data,
    is_page_file,
    relative_address,
)
from glmc.observe.page.measured import PlanTimes, Timed
from glmc.observe.timeline.by_call import (
    BY_CALL,
    PhaseCalls,
    SideCalls,
    side_calls,
    side_from_json,
)
from glmc.observe.timeline.readers.open import open_timeline
from glmc_runtime.format.records import misfit


def read_timed(path: Path, history: History, page: Path) -> Timed:
    """The timeline as ``page``, that of the compile with this history, shows it; of two timelines
    the first that is of this compile.

    Raises UsageError for what is none, and for one of another compile.
    """
    address = ""
    if _is_page(path):
        address = relative_address(path, page)
        sides = _sides(path, embedded_data(path, content_of(path, TIMELINE), TIMELINE))
    else:
        sides = (side_calls(open_timeline(path)),)
    made = (history.model, history.target)
    side = next((each for each in sides if (each.model, each.target) == made), None)
    if side is None or not side.phases:
        found = ", ".join(f"{each.model} for {each.target}" for each in sides if each.model)
        raise _of_another(path, history, found or "a timeline of no plan of glmc's")
    phases = {
        plan.phase: _times(path, history, plan, side.phases[plan.phase])
        for plan in history.plans
        if plan.phase in side.phases
    }
    return Timed(side.label, side.how, phases, address)


def _is_page(path: Path) -> bool:
    try:
        return is_page_file(path)
    except OSError:
        return False  # what opens it says why it can't be read


def _sides(path: Path, data: dict[str, Any]) -> tuple[SideCalls, ...]:
    try:
        sides = tuple(map(side_from_json, data[BY_CALL]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_timeline(path, repr(error)[:160]) from error
    problem = misfit(sides, tuple[SideCalls, ...], BY_CALL)
    if problem is not None:
        raise _no_timeline(path, problem)
    return sides


def _times(path: Path, history: History, plan: PlanHistory, found: PhaseCalls) -> PlanTimes:
    nodes = _nodes_by_call(history, plan)
    seconds: dict[int, float] = {}
    for each in found.calls:
        if nodes.get(each.call) != each.node:
            raise _of_another(
                path, history, f"call {each.call} of {plan.phase} is for {each.node or 'no node'}"
            )
        seconds[each.call] = round(each.us * 1e-6, 12)
    return PlanTimes(tuple(map(seconds.get, range(len(nodes)))), found.steps, found.shown)


def _nodes_by_call(history: History, plan: PlanHistory) -> dict[int, str]:
    return {
        number: whole_id(history, Place(layer, call.node))
        for block in plan.blocks
        for layer, numbers in zip((block.layer, *block.like), block.indices, strict=True)
        for number, call in zip(numbers, block.calls, strict=True)
    }


def _of_another(path: Path, history: History, found: str) -> UsageError:
    return UsageError(
        "the timeline is of another compile",
        place=str(path),
        expected=f"calls of {history.model} for {history.target or 'no target'}, as this artifact "
        "has them",
        found=found,
        remedy="glmc run ARTIFACT --timeline FILE",
    )


def _no_timeline(path: Path, found: str) -> UsageError:
    return UsageError(
        "the page of the timeline has other data than this release reads",
        place=str(path),
        found=found,
        remedy=WRITTEN_BY[TIMELINE],
    )
