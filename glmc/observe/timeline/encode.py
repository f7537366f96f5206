"""Totals and differences as plain JSON and as rows of a CSV file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from enum import Enum
from typing import Any

from glmc.observe.timeline.bubbles import median_step
from glmc.observe.timeline.diff import TimelineDiff
from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.table import Timeline
from glmc.observe.timeline.totals import Total, Totals, grouped

FORMAT = 1
_ROW = ("op", "layer", "node", "name")
_SIDE = ("launches", "kernels_us", "device_us")


def totals_json(timeline: Timeline, made: Totals) -> dict[str, Any]:
    """One timeline."""
    return {"format": FORMAT, "timeline": _facts(timeline), "totals": _plain(asdict(made))}


def diff_json(a: Timeline, b: Timeline, made: TimelineDiff) -> dict[str, Any]:
    """Two timelines; ``difference_us`` is what A pays more than B."""
    return {
        "format": FORMAT,
        "a": totals_json(a, made.a),
        "b": totals_json(b, made.b),
        "levers": [
            {**asdict(lever), "difference_us": lever.difference_us} for lever in made.levers
        ],
        "rows": [
            {
                **_plain(asdict(row)),
                "difference_us": row.difference_us,
                "floor_us": row.floor_us,
            }
            for row in made.rows
        ],
        "remarks": list(made.remarks),
    }


def totals_rows(timeline: Timeline, made: Totals) -> Iterator[tuple[str, ...]]:
    """One row for each kernel or node of the median step, a heading first."""
    yield (*_ROW, *_SIDE, "floor_us", "emulated")
    emulated = _text(timeline.facts.emulated)
    time = median_step(timeline, made.selection)
    rows = grouped(time, lambda event: ((op_class(event), event.layer, event.node, event.name),))
    for (kind, layer, node, name), total in rows.items():
        yield (kind, _text(layer), node, name, *_numbers(total), emulated)


def diff_rows(a: Timeline, b: Timeline, made: TimelineDiff) -> Iterator[tuple[str, ...]]:
    """One row for each row of the difference, a heading first."""
    sides = [f"{side}_{name}" for side in "ab" for name in _SIDE]
    last = "difference_us", "floor_us", "a_emulated", "b_emulated"
    yield "aligned_by", "name", *sides, *last
    emulated = [_text(side.facts.emulated) for side in (a, b)]
    for row in made.rows:
        cells = [_numbers(side)[:3] if side else ("", "", "") for side in (row.a, row.b)]
        yield (
            row.aligned.value,
            row.name,
            *cells[0],
            *cells[1],
            _text(round(row.difference_us, 3)),
            _text(row.floor_us),
            *emulated,
        )


def _numbers(total: Total) -> tuple[str, ...]:
    return (
        f"{total.launches:g}",
        f"{total.kernel_us:.3f}",
        f"{total.device_us:.3f}",
        _text(total.floor_us),
    )


def _text(value: float | None) -> str:
    return "" if value is None else str(value)


def _facts(timeline: Timeline) -> dict[str, Any]:
    made = asdict(timeline.facts)
    return {"label": timeline.label, **_plain(made)}


def _plain(value: Any) -> Any:
    """Enums by their value, tuples as lists; the rest is plain."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
