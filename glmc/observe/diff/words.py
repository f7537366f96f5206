"""A comparison in words: at most ten lines that say what differs, then the detail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from glmc.observe.diff.compare import STEP
from glmc.observe.diff.made_from import FILE, MODEL, OPTION, VERSION
from glmc.observe.diff.record import Change, Comparison, Layers, NodeChange, PlanDiff, StepDiff
from glmc.observe.spans import spans
from glmc_runtime.command.units import bytes_text

NAMED = 4
"""Names in a line of the summary; more of them are counted."""
ROWS = 40
"""Nodes or calls of a section of the detail; more of them are counted."""
_SIZES = ("arena bytes",)


def summary_lines(comparison: Comparison) -> Iterator[str]:
    """One line for each kind of difference, the causes first; one that says so without any."""
    a, b = comparison.a, comparison.b
    yield f"A  {a.label}  ({a.kind} of {a.model} for {a.target or 'no target'})"
    yield f"B  {b.label}  ({b.kind} of {b.model} for {b.target or 'no target'})"
    for remark in comparison.remarks:
        yield f"note: {remark}"
    if not comparison.differs:
        yield "no difference in what was compared" if comparison.remarks else "no difference"
        return
    for group, word in (
        (MODEL, "model"),
        (FILE, "files"),
        (VERSION, "versions"),
        (OPTION, "options"),
    ):
        named = list(comparison.named(group))
        yield from _line(word, [each.name for each in named] if group == FILE else _all(named))
    yield from _line("passes", list(_passes(comparison)))
    yield from _line("matches", list(_match_counts(comparison)))
    yield from _line("graph", list(_graph(comparison.steps)))
    for plan in comparison.plans:
        yield from _line(plan.phase, list(_plan(plan)))


def detail_lines(comparison: Comparison) -> Iterator[str]:
    """All that differs in what they were made from, at each step and in each plan: ``-`` is A,
    ``+`` is B."""
    if comparison.changes:
        yield from ("", "made from", *(f"  {text}" for text in _all(comparison.changes)))
    for step in comparison.steps:
        if step.differs:
            yield ""
            yield from _step_lines(step)
    for plan in comparison.plans:
        if plan.differs:
            yield ""
            yield f"plan of {plan.phase}"
            yield from (f"  {_values(each)}" for each in (*plan.changes, *plan.kernels))
            yield from _rows("buffers", plan.buffers)
            yield from _rows("calls", plan.calls)


def _line(word: str, parts: Sequence[str]) -> Iterator[str]:
    if parts:
        more = f" and {len(parts) - NAMED} more" if len(parts) > NAMED else ""
        yield f"{word + ':':<9} {'; '.join(parts[:NAMED])}{more}"


def _values(change: Change) -> str:
    return f"{change.name} {_or_none(change.a)} | {_or_none(change.b)}"


def _all(changes: Iterable[Change]) -> list[str]:
    return [_values(change) for change in changes]


def _fewer(change: Change) -> int:
    """Kernels come first of which the number of calls changed most."""
    return -abs(int(change.a or 0) - int(change.b or 0))


def _bytes(change: Change) -> str:
    sizes = (None if size is None else bytes_text(int(size)) for size in (change.a, change.b))
    return f"arena {' | '.join(map(_or_none, sizes))}"


def _or_none(value: str | None) -> str:
    return "none" if value is None else value


def _passes(comparison: Comparison) -> Iterator[str]:
    for side, other in (("A", "b"), ("B", "a")):
        names = [_alone(step) for step in comparison.steps if getattr(step, other) is None]
        if names:
            yield f"only in {side}: {', '.join(names)}"
    if any(comparison.named(STEP)):
        yield "another order"


def _alone(step: StepDiff) -> str:
    matches = sum(len(change.layers) for change in step.matches)
    return f"{step.name} ({_count(matches, 'match')})"


def _match_counts(comparison: Comparison) -> Iterator[str]:
    for step in comparison.steps:
        for change in step.changes:
            if change.name == "matches":
                yield f"{step.name} {_or_none(change.a)} | {_or_none(change.b)}"
    for step in comparison.steps:
        counted = any(change.name == "matches" for change in step.changes)
        if step.matches and not counted and step.a is not None and step.b is not None:
            yield f"{step.name} at other nodes"


def _graph(steps: Iterable[StepDiff]) -> Iterator[str]:
    changed = [step for step in steps if step.nodes]
    if changed:
        first = changed[0]
        layers = _union(change.layers for change in first.nodes)
        yield f"differs from {first.name} on, {layer_text(layers)}"
    if len(changed) > 1:
        yield f"further at {', '.join(step.name for step in islice(changed, 1, 1 + NAMED))}"


def _plan(plan: PlanDiff) -> Iterator[str]:
    yield from (_values(each) for each in plan.changes if each.name == "calls")
    rows = _all(sorted(plan.kernels, key=_fewer))
    if rows:
        more = f" and {len(rows) - NAMED} more kernels" if len(rows) > NAMED else ""
        yield f"{', '.join(rows[:NAMED])}{more}"
    yield from _calls([each for each in plan.calls if each.order or not rows])
    if plan.buffers:
        yield f"{_count(len(plan.buffers), 'other buffer')}"
    yield from (_bytes(each) for each in plan.changes if each.name in _SIZES)


def _calls(calls: Sequence[NodeChange]) -> Iterator[str]:
    """Of calls of the same kernels."""
    for some, words in (
        ([each for each in calls if not each.order], "with other arguments"),
        ([each for each in calls if each.order], "in another order"),
    ):
        if some:
            layers = layer_text(_union(change.layers for change in some))
            number = "calls" if some[0].order else _count(len(some), "call")
            yield f"{number} {words}, {layers}"


def _step_lines(step: StepDiff) -> Iterator[str]:
    labels = [label for label in (step.a, step.b) if label is not None]
    side = "" if len(labels) == 2 else f", only in {'A' if step.b is None else 'B'}"
    yield f"{' | '.join(dict.fromkeys(labels))}{side}"
    yield from (f"  {_values(change)}" for change in step.changes)
    for side, sign in (("a", "-"), ("b", "+")):
        matches = [change for change in step.matches if change.side == side]
        yield from (
            f"  {sign} match {match.id}  {layer_text(match.layers)}" for match in matches[:ROWS]
        )
        yield from _more(len(matches))
    yield from _rows("nodes", step.nodes)
    if step.carried:
        yield f"  {_count(step.carried, 'difference')} of the step before remain"


def _rows(title: str, rows: Sequence[NodeChange]) -> Iterator[str]:
    if not rows:
        return
    yield f"  {title}:"
    for row in rows[:ROWS]:
        order = "  another order" if row.order else ""
        yield f"    {row.id or 'layer'}  {layer_text(row.layers)}{order}"
        yield from (f"    - {row.a}" for _ in range(row.a is not None))
        yield from (f"    + {row.b}" for _ in range(row.b is not None))
    yield from _more(len(rows))


def _more(count: int) -> Iterator[str]:
    if count > ROWS:
        yield f"    and {count - ROWS} more; --json has them all"


def _union(some: Iterable[Layers]) -> Layers:
    layers = {layer for each in some for layer in each}
    return tuple(sorted(layers, key=lambda layer: -1 if layer is None else layer))


def layer_text(layers: Layers) -> str:
    """``outside, layers 3..91``."""
    numbers = [layer for layer in layers if layer is not None]
    parts = ["outside the layers"] if None in layers else []
    if numbers:
        parts.append(f"{'layers' if len(numbers) > 1 else 'layer'} {spans(numbers)}")
    return ", ".join(parts)


def _count(count: int, noun: str) -> str:
    ending = "" if count == 1 else "es" if noun.endswith("ch") else "s"
    return f"{count} {noun}{ending}"
