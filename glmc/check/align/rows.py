"""The values of a step as rows of an alignment, each with its verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import Node

from glmc.check.align.call_values import CallValues
from glmc.check.align.lock_step import CallDone, StepPlace
from glmc.check.align.metrics import difference
from glmc.check.align.other_experts import AFTER, BEFORE, OtherExperts
from glmc.check.align.result import AlignedValue, OwnOfPart, RouterAgreement, Verdict
from glmc.check.align.routers import agreement, choice
from glmc.check.align.shown import beside_slots
from glmc.check.align.yardstick import OTHER_VALUE, Judged, judge
from glmc.check.calls.written import calls_for
from glmc.lowering.lower import Lowered
from glmc_runtime.format.cache import SCRATCH_BLOCK
from glmc_runtime.format.values import ValuePart

PROGRAM = "program"
"""How a value is paired that the reference need not have: with what its program makes of it."""
OTHER_EXPERTS = "inherited by another choice of experts"


class StepRows:
    """``first`` is the order of the first row, ``others`` are the tokens that the free replay has
    sent to other experts so far, ``times`` as of :class:`~.expectation.Expectation`."""

    def __init__(
        self, place: StepPlace, lowered: Lowered, first: int, others: OtherExperts, times: float
    ) -> None:
        self._others, self._times = others, times
        others.begin([len(chunk.tokens) for chunk in place.real.chunks])
        self._layer = BEFORE
        self._place, self._lowered, self._first = place, lowered, first
        self._rows: list[AlignedValue] = []
        self._known = {each.node: each for each in lowered.values}
        self._overwritten: dict[str, list[str]] = {}

    def add(self, done: CallDone) -> None:
        """The values that a call completes, and what it has changed besides."""
        call = self._lowered.plan.calls[done.position]
        for nodes in done.overwritten:
            for node in nodes:
                texts = self._overwritten.setdefault(call.node, [])
                texts.append(f"{call.function} writes over {node.meta['id']}")
        calls = calls_for(self._lowered, done.position)
        functions = ", ".join(dict.fromkeys(each.function for each in calls))
        for ranks in done.values:
            for node in ranks[0].shown.nodes:
                rows = [self._row(node, each, functions) for each in ranks]
                rank, row = max(enumerate(rows), key=lambda each: _weight(each[1]))
                if len(rows) > 1 and row.reason:
                    row = replace(row, reason=f"rank {rank}: {row.reason}")
                self._rows.append(replace(row, order=self._first + len(self._rows)))

    def values(self) -> list[AlignedValue]:
        """All rows, in order of execution."""
        rows = self._rows
        for node, texts in self._overwritten.items():
            place = next(
                (at for at, row in enumerate(rows) if row.node.partition("[")[0] == node), None
            )
            if place is not None:
                reason = "; ".join(dict.fromkeys(texts))
                rows[place] = replace(rows[place], verdict=Verdict.OWN, reason=reason)
        return rows

    def _row(self, node: Node, values: CallValues, functions: str) -> AlignedValue:
        shown = values.shown
        expected, inherited, free = (
            shown.of(node, each) for each in (values.expected, values.inherited, values.free)
        )
        right = expected
        exact, forced = shown.of(node, values.exact), shown.of(node, values.forced)
        calls = self._judged(node, values, values.forced)
        found = calls.found or self._beside(node, values)
        by_reference = False
        if not found and node in values.given:
            other = self._judged(node, values, values.expected, by_reference=True)
            found = other.found and f"{OTHER_VALUE}: {other.found}"
            if other.found:  # it is not by what the node reads
                by_reference, calls, exact = True, other, expected
                right = shown.of(node, values.references[0])
        router = self._router(node, values)
        known = self._known[node.meta["id"]]
        if known.layer is not None:
            self._layer = known.layer
        place = self._layer if known.layer is not None or self._layer == BEFORE else AFTER
        reason = found
        if not found and self._others.up_to(place) and not torch.equal(free, expected):
            reason = OTHER_EXPERTS
        sides = (exact.to(forced.dtype), forced), (right, inherited)
        return AlignedValue(
            step=self._place.number,
            order=0,
            phase=self._place.key.phase,
            name=str(known.keys[0]),
            other_name=str(known.keys[0]),
            paired_by=PROGRAM,
            layer=known.layer,
            module=known.module,
            op=known.op,
            node=known.node,
            function=functions,
            source=known.source,
            passes=known.passes,
            dtype=known.dtype,
            shape=tuple(expected.shape),
            total=difference(expected, free),
            own=difference(*sides[0]),
            inherited=difference(*sides[1]),
            numerics=values.tolerance.numerics.value,
            bound=calls.bound,
            router=router,
            verdict=Verdict.OWN if found else Verdict.OK,
            reason=reason,
            also=tuple(map(str, known.keys[1:])),
            share=calls.share,
            parts=tuple(self._parts(node, values, by_reference, *sides)),
        )

    def _parts(
        self,
        node: Node,
        values: CallValues,
        by_reference: bool,
        own: tuple[Tensor, Tensor],
        inherited: tuple[Tensor, Tensor],
    ) -> Iterator[OwnOfPart]:
        """What is known of columns that are tensors of the model. Of ranks each has other ones."""
        known = self._known[node.meta["id"]]
        side = values.expected if by_reference else values.forced
        for part in known.parts if known.dealt is None else ():
            judged = self._judged(node, values, side, by_reference, part)
            yield OwnOfPart(
                tuple(map(str, part.keys)),
                difference(_columns(own[0], part), _columns(own[1], part)),
                difference(_columns(inherited[0], part), _columns(inherited[1], part)),
                judged.bound,
                judged.share,
                f"{OTHER_VALUE}: {judged.found}" if by_reference and judged.found else judged.found,
            )

    def _judged(
        self,
        node: Node,
        values: CallValues,
        side: Mapping[Node, Tensor],
        by_reference: bool = False,
        part: ValuePart | None = None,
    ) -> Judged:
        """The value of a side beside what the node makes of expected operands; of a ``part`` with
        the errors in its columns alone, by the bound of the whole."""
        shown = values.shown
        sides = (values.exact, side, *(values.others if by_reference else values.references))
        exact, actual, *references = (shown.of(node, each) for each in sides)
        decided = _decided(values, side)
        if decided is not None:
            exact, actual = exact[decided], actual[decided]
            references = [each[decided] for each in references]
        if part is not None:
            actual, right = exact.to(actual.dtype, copy=True), actual
            _columns(actual, part).copy_(_columns(right, part))
        times = 1.0
        if by_reference:  # between the values that it has, it may round at any place
            times = self._times if values.known_operands else math.inf
        return judge(exact, references, actual, values.tolerance, times)

    def _beside(self, node: Node, values: CallValues) -> str:
        """What is wrong with the slots of a cache that a step does not write to."""
        shown = values.shown
        if node not in shown.caches:
            return ""
        expected, forced = (
            beside_slots(side[node], shown.slots)[SCRATCH_BLOCK + 1 :]
            for side in (values.expected, values.forced)
        )
        count = int((expected != forced).sum())
        return f"{count} elements of other slots of the cache are written to" if count else ""

    def _router(self, node: Node, values: CallValues) -> RouterAgreement | None:
        """How far the free replay chooses the expected experts."""
        ids, known = values.shown.ids, values.routed
        if node is not ids or known is None:
            return None
        chosen = choice(values.expected[ids], values.free[ids])
        if not bool(chosen.same.all()):
            self._others.note(node.meta["layer"], (~chosen.same).nonzero().flatten())
        return agreement(chosen, known.scores, values.errors)


def _decided(values: CallValues, side: Mapping[Node, Tensor]) -> Tensor | None:
    """By token, whether a router's choice counts: where a rounding decides, either is right."""
    ids = values.shown.ids
    if ids is None or values.routed is None:
        return None
    same = choice(values.exact[ids], side[ids]).same
    return same | ~values.routed.undecided(values.tolerance)


def _columns(value: Tensor, part: ValuePart) -> Tensor:
    return value[..., part.start : part.stop]


def _weight(row: AlignedValue) -> tuple[bool, float]:
    """By which the rank is chosen that stands for all."""
    return row.verdict is Verdict.OWN, row.total.largest_absolute
