"""All about the values that a call completes: expected, computed in several ways, and replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import Node

from glmc.check.align.routing import Routed
from glmc.check.align.shown import Shown
from glmc.ir import match as m
from glmc.ir.tolerance import Tolerance


@dataclass(frozen=True)
class CallValues:
    """The values of one node, which a call completes, on one rank: several where it has several
    results. ``given`` are those of which the reference says what is expected; ``known_operands``:
    as it does of all that they are computed from. ``references`` are
    the node on expected operands in the ways in which the calls may round, ``others`` in those of
    anybody, ``exact`` the same in float32, ``inherited`` the node on the operands of the free
    replay. Of a router ``routed`` is what it makes of expected operands, and ``errors`` how far off
    what it reads is in the free replay, by token."""

    shown: Shown
    given: frozenset[Node]
    known_operands: bool
    expected: Mapping[Node, Tensor]
    references: tuple[Mapping[Node, Tensor], ...]
    others: tuple[Mapping[Node, Tensor], ...]
    exact: Mapping[Node, Tensor]
    inherited: Mapping[Node, Tensor]
    free: Mapping[Node, Tensor]
    forced: Mapping[Node, Tensor]
    tolerance: Tolerance
    routed: Routed | None
    errors: Tensor | None


@dataclass(frozen=True)
class Computed:
    """What a node makes, whole, on each rank; the parts are those of :class:`CallValues`."""

    shown: Shown
    given: frozenset[Node]
    known_operands: bool
    references: Sequence[Sequence[Any]]
    others: Sequence[Sequence[Any]]
    exact: Sequence[Any]
    inherited: Sequence[Any]
    tolerances: Sequence[Tolerance]
    routed: Routed | None
    errors: Tensor | None

    def beside(
        self,
        rank: int,
        free: Mapping[Node, Tensor],
        forced: Mapping[Node, Tensor],
        expected: Mapping[Node, Any],
    ) -> CallValues:
        """With what a rank has replayed."""
        nodes = self.shown.nodes
        known = {node: expected[node] for node in nodes}
        return CallValues(
            self.shown,
            self.given,
            self.known_operands,
            known,
            tuple(results(nodes, each[rank]) for each in self.references),
            tuple(results(nodes, each[rank]) for each in self.others),
            results(nodes, self.exact[rank]),
            results(nodes, self.inherited[rank]),
            {node: like(known[node], free[node]) for node in nodes},
            {node: like(known[node], forced[node]) for node in nodes},
            self.tolerances[rank],
            self.routed,
            self.errors,
        )


def producer(node: Node) -> Node:
    """What computes a value: the call of which it is one of the results, or itself."""
    return m.operand(node, 0) if m.is_op(node, "getitem") else node


def results_of(node: Node, among: Sequence[Node]) -> tuple[Node, ...]:
    """Those of some nodes that are results of a call, in the order in which it has them."""
    found = [each for each in among if producer(each) is node]
    return tuple(sorted(found, key=lambda each: 0 if each is node else int(str(each.args[1]))))


def results(nodes: Sequence[Node], made: Any) -> dict[Node, Any]:
    """Of what a call made, the values that are ``nodes``."""
    return {node: made[node.args[1]] if m.is_op(node, "getitem") else made for node in nodes}


def like(expected: Tensor, value: Tensor) -> Tensor:
    """In the dtype of the program and on its device."""
    return value.to(expected.device, expected.dtype)
