"""Runs a program on expected values, node by node and on all of its ranks, and collects what
differs."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from glmc.check.verify.cases import Case
from glmc.check.verify.execution import NodeError, call_on_ranks
from glmc.check.verify.spread import spread
from glmc.check.verify.verdict import Verdict, Violation, Wrong, verdict_text
from glmc.ir import match as m
from glmc.ir.layout import Layout
from glmc.ir.ops import Numerics
from glmc.ir.ops.aten import VIEWS
from glmc.ir.ops.collectives import all_reduce
from glmc.ir.program import Program
from glmc.ir.tolerance import (
    ANOTHER_KIND,
    NONE,
    Deviation,
    Tolerance,
    compare,
    condition_of,
    stored_values,
    tolerance_of_call,
)
from glmc.pipeline.records import PassRecord

_EXACT = Tolerance(Numerics.BITWISE)


@dataclass(frozen=True)
class Expected:
    """What a node must compute: ``values`` by rank, or ``total``, which is what those of all ranks
    add up to. What fills up a dimension that is ``dealt`` must be zeros, or may be anything where
    it is ``free``. ``summed``: how exact the sum of all ranks' values has to be, which is the
    node's or its operand's."""

    values: Sequence[Any] = ()
    total: Tensor | None = None
    dealt: tuple[int, Layout] | None = None
    summed: Tolerance | None = None
    free: bool = False


def alone(value: Any) -> Expected:
    """Of a program of one rank."""
    return Expected((value,))


@dataclass
class Judge:
    """Each node is run on expected values wherever these are known, so that a difference is the
    node's own. The first of them is kept, with what shows it again."""

    record: PassRecord
    violations: dict[str, Violation] = field(default_factory=dict)
    compared: set[str] = field(default_factory=set)
    largest: float = 0.0
    wrong: Wrong | None = None

    def run(
        self,
        program: Program,
        bound: Sequence[Mapping[Node, Any]],
        expected: Mapping[Node, Expected],
        case: Case,
    ) -> None:
        """``bound`` has the placeholders of each rank."""
        own: list[dict[Node, Any]] = [{} for _ in bound]
        values: list[Mapping[Node, Any]] = [
            ChainMap(mine, given)  # type: ignore[arg-type]
            for mine, given in zip(own, bound, strict=True)
        ]
        with torch.no_grad():
            for node in program.graph.nodes:
                if node.op != "call_function":
                    continue
                wanted = expected.get(node)
                try:
                    found = call_on_ranks(node, values)
                except NodeError as error:
                    rank = error.rank if len(values) > 1 else None
                    self._note(node, case, ANOTHER_KIND, rank, str(error))
                    self._keep(node, error.rank, values, expected, _EXACT, case)
                    return
                for mine, value in zip(own, found, strict=True):
                    mine[node] = value
                if wanted is None:
                    continue
                tolerance = _tolerance(node, wanted, values)
                self._compare(node, wanted, found, tolerance, case, values, expected)
                if wanted.total is None:
                    for mine, value in zip(own, wanted.values, strict=True):
                        mine[node] = value

    def verdict(self, cases: int) -> Verdict:
        violations = tuple(self.violations.values())
        numerics = Numerics(self.record.numerics)
        text = verdict_text(numerics, len(self.compared), "value", cases, self.largest, violations)
        return Verdict(self.record.name, self.record.numerics, text, violations, self.wrong)

    def _compare(
        self,
        node: Node,
        wanted: Expected,
        found: Sequence[Any],
        tolerance: Tolerance,
        case: Case,
        values: Sequence[Mapping[Node, Any]],
        expected: Mapping[Node, Expected],
    ) -> None:
        if wanted.total is not None:
            deviations = [compare(wanted.total, all_reduce(found)[0], tolerance)]
        else:
            deviations = [
                _deviation(was, now, tolerance, wanted, rank)
                for rank, (was, now) in enumerate(zip(wanted.values, found, strict=True))
            ]
        rank, worst = max(enumerate(deviations), key=lambda each: each[1].share)
        self.compared.add(node.meta["id"])
        self.largest = max(self.largest, worst.share)
        if not worst.allowed:
            # What has been added up, or is to be, is wrong on all ranks.
            place = None if wanted.summed is not None or len(found) == 1 else rank
            self._note(node, case, worst, place)
            self._keep(
                node, None if wanted.total is not None else rank, values, expected, tolerance, case
            )

    def _keep(
        self,
        node: Node,
        rank: int | None,
        values: Sequence[Mapping[Node, Any]],
        expected: Mapping[Node, Expected],
        tolerance: Tolerance,
        case: Case,
    ) -> None:
        """Hold on to what the first violation can be seen again with; ``rank`` None: the sum."""
        if self.wrong is not None:
            return
        wanted = expected.get(node, Expected([None] * len(values)))
        value = wanted.total if rank is None else wanted.values[rank]
        # A value that only adds up to what is known has to be computed again.
        known = {each for each, of in expected.items() if of.total is None}
        if len(values) == 1:
            self.wrong = Wrong(node, values[0], frozenset(known), value, tolerance, case.name)
            return
        end, starts = spread(node, rank, known, values)
        self.wrong = Wrong(end, starts, frozenset(starts), value, tolerance, case.name)

    def _note(
        self, node: Node, case: Case, deviation: Deviation, rank: int | None, failure: str = ""
    ) -> None:
        producer = node.args[0] if m.is_op(node, "getitem") else node
        names = {node.meta["id"], *producer.meta.get("origins", ())}  # type: ignore[union-attr]
        match = next((each for each in self.record.matches if each.node in names), None)
        violation = Violation(
            self.record.name,
            self.record.numerics,
            None if match is None else match.node,
            node.meta["id"],
            node.meta.get("layer"),
            case.name,
            deviation.error,
            deviation.bound,
            node.meta.get("source") or "",
            failure,
            rank,
        )
        self.violations.setdefault(violation.node, violation)


def _tolerance(node: Node, wanted: Expected, values: Sequence[Mapping[Node, Any]]) -> Tolerance:
    tolerance = tolerance_of_call(node)
    if wanted.summed is not None:
        summand = node if wanted.total is not None else node.all_input_nodes[0]
        whole = wanted.values[0] if wanted.total is None else wanted.total
        tolerance = _of_sum(wanted.summed, [each[summand] for each in values], whole)
    elif wanted.dealt is not None and tolerance.numerics is Numerics.BITWISE:
        tolerance = _of_piece(node)
    return tolerance.with_condition(max(condition_of(node, each) for each in values))


def _of_piece(node: Node) -> Tolerance:
    """A function of each element is computed for several at once, and for the last of a row alone:
    which are the last is another matter in a piece, and they may be rounded another way: at the
    magnitude of the element itself, which may be many times that of its row."""
    producer = m.operand(node, 0) if m.is_op(node, "getitem") else node
    if m.op_name(producer) in VIEWS:
        return _EXACT
    return Tolerance(Numerics.REORDERED, 0, max(1, stored_values([producer])), own=True)


def _of_sum(tolerance: Tolerance, summands: Sequence[Tensor], whole: Tensor) -> Tolerance:
    """Each rank stores its summand, and the sums of two and of more are stored: at the magnitudes
    of the summands, which may be larger than that of what they add up to."""
    squares = sum(float(each.double().square().mean()) for each in summands)
    ratio = squares / max(float(whole.double().square().mean()), 1e-300)
    ratio = min(max(1.0, ratio), 1e12) if ratio == ratio else 1.0
    stored = tolerance.roundings + 2 * len(summands) - 1
    terms = ceil(tolerance.terms * ratio)
    return replace(tolerance, terms=terms, roundings=ceil(stored * ratio), own=True)


def _deviation(was: Any, now: Any, tolerance: Tolerance, wanted: Expected, rank: int) -> Deviation:
    if wanted.free and wanted.dealt is not None and now.shape == was.shape:
        old, new = (_present(each, *wanted.dealt, rank) for each in (was, now))
        return compare(old, new, tolerance) if old.numel() else NONE
    pairs = zip(was, now, strict=True) if isinstance(was, tuple) else ((was, now),)
    deviations = [compare(old, new, tolerance) for old, new in pairs]
    if wanted.dealt is not None and isinstance(now, Tensor) and now.shape == was.shape:
        deviations.append(_padding(now, *wanted.dealt, rank))
    return max(deviations, key=lambda deviation: deviation.share)


def _present(value: Tensor, axis: int, layout: Layout, rank: int) -> Tensor:
    """The entries of a dimension that are of the whole."""
    runs = layout.runs(rank)
    whole = [run.start is not None for run in runs for _ in range(run.length)]
    return value.index_select(axis, torch.tensor(whole).nonzero().flatten())


def _padding(value: Tensor, axis: int, layout: Layout, rank: int) -> Deviation:
    """How far what fills up a dimension is from zeros."""
    worst, start = NONE, 0
    for run in layout.runs(rank):
        if run.start is None:
            filled = value.narrow(axis, start, run.length)
            found = compare(torch.zeros_like(filled), filled, _EXACT)
            worst = max(worst, found, key=lambda deviation: deviation.share)
        start += run.length
    return worst
