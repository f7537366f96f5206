"""An alignment by layer: the worst value of each, and how many are too far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from glmc.check.align.result import AlignedValue, Verdict

SEVERITY = (Verdict.OWN, Verdict.FAIL, Verdict.UNKNOWN, Verdict.OK)
"""Verdicts, the worst first."""
INHERITED = "inherited"
"""How the reason begins of a value that is off, and whose calls are right."""
BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class LayerSummary:
    """The values of a layer in a step: ``layer`` is its number, or ``before`` and ``after`` for
    what is outside. ``worst`` is the value with the worst verdict and, of these, the largest share
    of what is allowed. ``agreeing`` of ``routed`` tokens went to the same experts."""

    step: int
    phase: str
    layer: str
    values: tuple[AlignedValue, ...]
    worst: AlignedValue
    verdicts: Counter[Verdict]
    routed: int
    agreeing: int


def is_inherited(value: AlignedValue) -> bool:
    """Whether nothing but what its operands have is wrong with a value."""
    return value.verdict is Verdict.OK and value.reason.startswith(INHERITED)


def standings(values: Iterable[AlignedValue]) -> list[str]:
    """How many values have each verdict, the worst first: ``1 own``, ``9 inherited``, ``7 ok``."""
    counts: Counter[str] = Counter()
    for each in values:
        counts[INHERITED if is_inherited(each) else each.verdict.value] += 1
    order = [each.value for each in SEVERITY]
    order.insert(-1, INHERITED)
    return [f"{counts[each]:,} {each}" for each in order if counts[each]]


def by_layer(values: Iterable[AlignedValue]) -> list[LayerSummary]:
    """The layers of each step, in order of execution."""
    return [
        _summary(name, list(some))
        for _, step in groupby(values, key=lambda each: each.step)
        for name, some in _layers(list(step))
    ]


def worst_first(values: Iterable[AlignedValue]) -> list[AlignedValue]:
    """By verdict, then by the share of what is allowed."""
    return sorted(values, key=_badness)


def _badness(value: AlignedValue) -> tuple[int, float]:
    share = value.share
    if share is None:
        share = value.total.relative
    return SEVERITY.index(value.verdict), -share if share == share else 0.0


def _layers(step: Sequence[AlignedValue]) -> Iterator[tuple[str, Iterable[AlignedValue]]]:
    seen = False
    for layer, some in groupby(step, key=lambda each: each.layer):
        seen |= layer is not None
        yield str(layer) if layer is not None else AFTER if seen else BEFORE, some


def _summary(name: str, values: Sequence[AlignedValue]) -> LayerSummary:
    routers = [each.router for each in values if each.router is not None]
    return LayerSummary(
        values[0].step,
        values[0].phase,
        name,
        tuple(values),
        worst_first(values)[0],
        Counter(each.verdict for each in values),
        sum(each.tokens for each in routers),
        sum(each.agreeing for each in routers),
    )
