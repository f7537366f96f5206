"""What the runs found, as tables: both sides, and the ratio of each round's pair."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from textwrap import fill
from typing import Any

from bench.engines.sides import ENGINE, PLANS
from bench.gpu.gpu_table import Section

Row = dict[str, Any]
_COLUMNS = ("work", "vLLM", "with plans", "vLLM / with plans", "of each pair")
_WIDTH = 116
_UNITS = {"decode": "batch", "first token": "tokens"}
_SERVED = (
    ("tokens a second", lambda one: one["tokens"] / one["seconds"], False),
    ("first token, p50", lambda one: one["first_ms"]["p50"], True),
    ("first token, p99", lambda one: one["first_ms"]["p99"], True),
    ("each further token, p50", lambda one: one["token_ms"]["p50"], True),
    ("each further token, p99", lambda one: one["token_ms"]["p99"], True),
)
"""Of requests that arrive: what it is called, its number, whether less is better."""


def tables_of(runs: Sequence[dict[str, Any]]) -> list[Section]:
    """A table for each run."""
    return [
        Section(
            f"{run['title']}, context {run['context']}, ms",
            _COLUMNS,
            [cells for row in run["rows"] for cells in _cells(row)],
            fill(_note(run), _WIDTH, break_on_hyphens=False),
        )
        for run in runs
    ]


def line_of(row: Row) -> str:
    """A row while the run goes on."""
    return "\n".join("  ".join(cells) for cells in _cells(row))


def _cells(row: Row) -> list[tuple[str, ...]]:
    if not row[PLANS] or not row[ENGINE]:
        return [(f"{row['what']} {row['size']}", row.get("cut", "not measured"), "", "", "")]
    if row["what"] != "served":
        name = f"{row['what']}, {_UNITS[row['what']]} {row['size']}"
        return [_pair(name, *([one["ms"] for one in row[side]] for side in (ENGINE, PLANS)), True)]
    return [
        _pair(name, *([number(one) for one in row[side]] for side in (ENGINE, PLANS)), less)
        for name, number, less in _SERVED
    ]


def _pair(name: str, engine: list[float], plans: list[float], less: bool) -> tuple[str, ...]:
    """Medians, and the ratios of the pairs: above 1 where plans are better."""
    pairs = list(zip(engine, plans, strict=False))  # a run may be cut short
    ratios = [one / other if less else other / one for one, other in pairs]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}" if len(ratios) > 1 else ""
    return (
        name,
        f"{median(engine):.2f}",
        f"{median(plans):.2f}",
        f"**{median(ratios):.2f}**",
        spread,
    )


def _note(run: dict[str, Any]) -> str:
    note = f"`{run['command']}`"
    if "rate" in run:
        note += f"; requests arrive at {run['rate']:.2f} a second"
    if "host" in run:
        times = run["host"][PLANS]["calls"]
        launch = times["graph launch"]
        note += (
            f"; of a step of one sequence the host is in our calls for {times['forward']:.2f} ms "
            f"and, for logits, {times['compute_logits']:.2f} ms, of which the launch of the "
            f"graph takes {launch:.2f} ms"
        )
    return note + "."
