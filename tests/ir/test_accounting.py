"""Accounting: an argument that no accessor read is a refusal, however it is spelled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.accounting import accounting, unread
from glmc.ir.ops import Numerics
from glmc.ir.ops.linear import SILU_MUL
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.ir.signature import signature
from glmc.passes.base import AnchorPass
from tests.support.traced import Traced, conditions, trace

SHAPE = (2, 3, 8)


class Sum(nn.Module):
    def __init__(self, total: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.total = total

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.total(x, y).relu()


def traced_sum(total: Callable[[Tensor, Tensor], Tensor]) -> Traced:
    return trace(Sum(total), torch.randn(SHAPE), torch.randn(SHAPE))


def left_over(traced: Traced, read: Callable[[Node], object]) -> str | None:
    """What is left of the addition after ``read``."""
    (node,) = traced.nodes("aten.add", "aten.div")
    with accounting() as log:
        read(node)
        found = unread([node], node.all_input_nodes, log)
    return None if found is None else found[1]


def both(node: Node) -> object:
    return m.operand(node, 0), m.operand(node, 1)


@pytest.mark.parametrize(
    ("total", "left"),
    [
        (lambda x, y: x + y, None),
        (lambda x, y: torch.add(x, y, alpha=1), None),
        (lambda x, y: torch.add(x, y, alpha=3), "argument 'alpha' = 3 of aten.add"),
        (lambda x, y: torch.div(x, y, rounding_mode="floor"), "argument 'rounding_mode' = floor"),
    ],
    ids=["plain", "the default", "alpha", "another overload"],
)
def test_what_nobody_read_is_left(
    total: Callable[[Tensor, Tensor], Tensor], left: str | None
) -> None:
    found = left_over(traced_sum(total), both)
    assert found is None if left is None else found is not None and left in found


def test_an_operand_must_be_read_too() -> None:
    found = left_over(traced_sum(lambda x, y: x + y), lambda node: m.operand(node, 0))
    assert found is not None and "argument 'other'" in found


def test_a_keyword_is_found_by_its_name() -> None:
    traced = traced_sum(lambda x, y: torch.add(x, y, alpha=3))
    assert left_over(traced, lambda node: (both(node), m.argument(node, 2, "alpha"))) is None


def test_numbers_seen_as_another_dtype_are_no_other_shape() -> None:
    traced = trace(Sum(lambda x, y: x.view(torch.int32) + y), torch.ones(SHAPE), torch.ones(SHAPE))
    (node,) = [node for node in traced.program.graph.nodes if "view" in str(node.target)]
    with accounting() as log:
        m.operand(node, 0)
        found = unread([node], node.all_input_nodes, log)
    assert found is not None and "argument 'dtype'" in found[1]


@pytest.mark.parametrize(
    ("limited", "left"),
    [
        (lambda x, y: x.sin() + y, None),
        (lambda x, y: x.clamp(max=1e9) + y, "aten.clamp"),
        (lambda x, y: torch.remainder(x, 1e9) + y, "aten.remainder"),
    ],
    ids=["no limit", "clamp", "remainder"],
)
def test_a_limit_is_not_read_by_computing_it(
    limited: Callable[[Tensor, Tensor], Tensor], left: str | None
) -> None:
    traced = traced_sum(limited)
    (node,) = traced.nodes("aten.add")
    with accounting() as log:
        signature(node, traced.program.inputs())
        found = unread([node], traced.program.inputs(), log)
    assert found is None if left is None else found is not None and left in found[1]


def test_outside_an_attempt_nothing_is_noted() -> None:
    (node,) = traced_sum(lambda x, y: x + y).nodes("aten.add")
    both(node)
    with accounting() as log:
        assert not log.read


def careless(anchor: Node, program: Program) -> tuple[Node, Node, Node]:
    """A matcher of ``silu(gate) * up`` that takes whatever addition stands in front."""
    gate = m.operand(anchor, 0)
    product = m.sole_user(anchor, "aten.mul")
    return m.operand(gate, 0), m.other_operand(product, anchor), product


def put(rewriter: Rewriter, found: tuple[Node, Node, Node]) -> None:
    gate, up, product = found
    new = rewriter.call(SILU_MUL.overload, (gate, up), replaces=(product,))
    rewriter.replace(product, new)


CARELESS = AnchorPass("careless", Numerics.BITWISE, ("aten.silu",), careless, put)


class Shifted(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.silu(x + 1) * y


def test_a_careless_matcher_refuses_by_construction() -> None:
    traced = trace(Shifted(), torch.randn(SHAPE), torch.randn(SHAPE))
    text = traced.text()
    result = traced.apply(CARELESS)
    assert conditions(result) == ["argument 'other' = 1 of aten.add is not read by this pass"]
    assert (result.matches, traced.text()) == ([], text)
