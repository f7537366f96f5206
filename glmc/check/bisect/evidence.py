"""Reproduction of a wrong result: few nodes, their inputs and what must come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from glmc.check.verify.execution import NodeError, call
from glmc.ir import match as m
from glmc.ir.tolerance import Deviation, Tolerance, compare, condition_of

Values = Mapping[Node, Any]


@dataclass(frozen=True)
class Half:
    """``calls`` in order, which read each other and ``starts``, and compute ``end``.

    ``end`` may be a start itself: a pass that only rewires computes nothing.
    """

    calls: tuple[Node, ...]
    starts: tuple[Node, ...]
    end: Node

    def run(self, values: Values) -> tuple[Any, float]:
        """The value of the end from those of the starts, and how much it amplifies errors."""
        computed = {start: values[start] for start in self.starts}
        condition = 1.0
        with torch.no_grad():
            for node in self.calls:
                computed[node] = call(node, computed)
                if m.op_name(node).startswith("glmc."):
                    condition = max(condition, condition_of(node, computed))
        return computed[self.end], condition


@dataclass(frozen=True)
class Counterexample:
    """``after`` computes another value than ``before`` does, or than ``expected``.

    ``same`` maps starts of ``after`` to the starts of ``before`` that have the same value;
    ``values`` holds those of the starts of ``after``, and of ``before`` what has no partner.
    """

    before: Half | None
    after: Half
    same: Mapping[Node, Node]
    values: Values
    expected: Any  # None where ``after`` raises
    tolerance: Tolerance
    case: str

    def deviation(self, values: Values | None = None) -> Deviation:
        """How far the two are apart, on other values of the starts when they are given."""
        expected, actual, tolerance = self.outcome(values)
        return compare(expected, actual, tolerance)

    def outcome(self, values: Values | None = None) -> tuple[Any, Any, Tolerance]:
        """What is expected, what is found, and the tolerance on these values."""
        values = self.values if values is None else values
        try:
            actual, condition = self.after.run(values)
        except NodeError as error:  # it must compute something, so this is as wrong as can be
            actual, condition = error, 1.0
        expected = self.expected
        if self.before is not None:
            known = {old: values[new] for new, old in self.same.items()}
            expected, other = self.before.run({**values, **known})
            condition = max(condition, other)
        return expected, actual, replace(self.tolerance, condition=condition)


def half(end: Node, known: Iterable[Node], order: Iterable[Node]) -> Half:
    """The calls that ``end`` needs, back to ``known`` values and to placeholders.

    ``order`` are the nodes of the graph. ``end`` itself is computed even if it is known, unless
    it is a placeholder.
    """
    stops = set(known) - {end}
    calls: set[Node] = set()
    starts: dict[Node, None] = {}
    stack = [end]
    while stack:
        node = stack.pop()
        if node in stops or node.op == "placeholder":
            starts[node] = None
        elif node not in calls:
            calls.add(node)
            stack.extend(node.all_input_nodes)
    return Half(tuple(node for node in order if node in calls), tuple(starts), end)
