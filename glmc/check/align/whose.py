"""Whose error it is, in one alignment: the values of two sides, and what their calls do alone.

Comparing two sides says how far apart values are; running the calls of an artifact (own.py), which
part of that is the calls' own. Here the first is given what the second knows: own and inherited
error, the bound and the verdict by it. Values that the reference does not have stand beside those
that it has, as far off as the program makes of what it has.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from glmc.check.align.aligned_step import Wanted
from glmc.check.align.other_experts import AFTER, BEFORE
from glmc.check.align.result import AlignedValue, Alignment, Verdict
from glmc.check.align.summary import INHERITED, is_inherited

OF_WHOLE = "own error and bound are those of the whole call"
"""What is said of columns of a merged projection where nothing more is known."""
_ABOUT = 4.0
"""As many times what rounding explains is allowed of values that are judged by it."""
Own = Mapping[tuple[int, str], AlignedValue]
"""By step and node."""


def with_own_errors(compared: Alignment, own: Alignment, wanted: Wanted) -> Alignment:
    """``compared`` with what ``own`` has of the same artifact and steps, in the order of its
    calls."""
    steps = {value.step for value in compared.values}
    known = {(value.step, value.node): value for value in own.values if value.step in steps}
    sharing = Counter((value.step, value.node) for value in compared.values)
    rows = [_filled(value, known, sharing[value.step, value.node] > 1) for value in compared.values]
    there = {(value.step, value.node) for value in rows}
    more = [
        value
        for place, value in known.items()
        if place not in there and wanted(value.module, value.layer)
    ]
    more = _with_inherited(more, rows)
    named = {name for value in more for name in (value.name, *value.also)}
    left = tuple(name for name in compared.unpaired[1] if name not in named)
    told = all((value.step, value.node) in known for value in rows)
    return replace(
        compared,
        values=tuple(_in_order(rows, more, known)),
        facts=(compared.facts[0], {**own.facts[1], **compared.facts[1]}),
        unpaired=(compared.unpaired[0], left),
        thresholds=own.thresholds
        if told
        else f"{own.thresholds}; where that is not known {compared.thresholds}",
    )


def _filled(value: AlignedValue, known: Own, shared: bool) -> AlignedValue:
    """Columns of a merged projection, which share its node, have the errors that its calls have
    there. They are to blame where the whole is, unless others are; of ranks only the error of the
    whole is known."""
    own = known.get((value.step, value.node))
    if own is None:
        return value
    names = {value.name, value.other_name}
    part = next((each for each in own.parts if names.intersection(each.names)), None)
    verdict, reason = own.verdict, own.reason
    if part is not None and verdict is Verdict.OWN and any(each.found for each in own.parts):
        verdict, reason = (Verdict.OWN, part.found) if part.found else (Verdict.OK, "")
    if not reason and value.verdict is Verdict.FAIL:
        reason = INHERITED
    if part is None and shared and not names.intersection((own.name, *own.also)):
        reason = f"{reason}; {OF_WHOLE}" if reason else OF_WHOLE
    told = own if part is None else part
    return replace(
        value,
        own=told.own,
        inherited=told.inherited,
        numerics=own.numerics,
        bound=told.bound,
        verdict=verdict,
        reason=reason,
        share=told.share,
    )


def _with_inherited(
    more: Sequence[AlignedValue], rows: Sequence[AlignedValue]
) -> list[AlignedValue]:
    """Values that only the calls have are not judged by what rounding explains: one whose calls are
    right inherits its error where that is about as large as of a value of its layer that does."""
    least: dict[tuple[int, int | None], float] = {}
    for row in rows:
        if is_inherited(row) and not math.isnan(row.total.relative):
            place = row.step, row.layer
            least[place] = min(row.total.relative, least.get(place, math.inf))

    def judged(value: AlignedValue) -> AlignedValue:
        known = least.get((value.step, value.layer), math.inf)
        off = _ABOUT * value.total.relative >= known
        right = value.verdict is Verdict.OK and not value.reason
        return replace(value, reason=INHERITED) if off and right else value

    return [judged(value) for value in more]


def _in_order(
    rows: Sequence[AlignedValue], more: Sequence[AlignedValue], known: Own
) -> Iterator[AlignedValue]:
    """By step, layer and call; what no call completes stays behind what it was behind. A call may
    end a layer and begin the next one."""
    placed: list[tuple[int, AlignedValue]] = []
    at = -1
    for value in rows:
        own = known.get((value.step, value.node))
        at = at if own is None else own.order
        placed.append((at, value))
    placed += [(value.order, value) for value in more]
    first: dict[int, int] = {}
    for at, value in placed:
        if value.layer is not None:
            first[value.step] = min(at, first.get(value.step, at))

    def place(each: tuple[int, AlignedValue]) -> tuple[int, int, int]:
        at, value = each
        outside = BEFORE if at < first.get(value.step, at) else AFTER
        return value.step, outside if value.layer is None else value.layer, at

    for order, (_, value) in enumerate(sorted(placed, key=place)):
        yield replace(value, order=order)
