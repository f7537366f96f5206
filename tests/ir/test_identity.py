"""What a node reads as, through rewrites and rebuilt programs."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch.fx import Node

from glmc.ir.identity import (
    IDENTITY,
    Identity,
    Part,
    begin,
    hand_down,
    hand_down_columns,
    hand_up,
    identity_of,
    seen_in_operand,
    without_identity,
)
from glmc.ir.match import op_name, refuse
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import PassResult, attempt
from glmc.passes.gate_up_merge import PASS as GATE_UP_MERGE
from glmc_runtime.format.tensor_key import OUTPUT, TensorKey
from tests.backends.planned import Built
from tests.support.models import captured, tiny_config

aten = torch.ops.aten
KEY = TensorKey("a", "Linear", 0, OUTPUT, "0")
OTHER = TensorKey("b", "Linear", 1, OUTPUT, "0")


def value(built: Built, target: Any, *arguments: Any, key: TensorKey | None = KEY) -> Node:
    """A call that is a value of the captured model."""
    node = built.call(target, *arguments)
    node.meta[IDENTITY] = Identity((node.meta["id"],), () if key is None else (key,))
    return node


@pytest.fixture
def built() -> Built:
    return Built()


@pytest.fixture
def x(built: Built) -> Node:
    return built.input("x", "tokens", 12)


def test_each_captured_call_is_itself(built: Built, x: Node) -> None:
    total = value(built, aten.add.Tensor, x, x)
    begin(built.graph, {total: [KEY, OTHER]})
    assert identity_of(total) == Identity((total.meta["id"],), (KEY, OTHER))
    assert identity_of(x) == Identity()


def test_what_takes_a_place_has_both_identities_its_own_first(built: Built, x: Node) -> None:
    first = value(built, aten.add.Tensor, x, 1.0, key=KEY)
    second = value(built, aten.add.Tensor, x, 2.0, key=OTHER)
    hand_down(first, second)
    hand_down(first, second)
    assert identity_of(second) == Identity((second.meta["id"], first.meta["id"]), (OTHER, KEY))
    assert without_identity(second.meta).keys() == second.meta.keys() - {IDENTITY, "val"}


def test_a_dropped_slice_is_columns_of_its_operand(built: Built, x: Node) -> None:
    whole = value(built, aten.add.Tensor, x, 1.0, key=None)
    part = value(built, aten.slice.Tensor, whole, 1, 4, 12)
    inner = value(built, aten.slice.Tensor, part, 1, 2, 5, key=OTHER)
    for node in (inner, part):
        hand_up(node)
    assert identity_of(whole).parts == (
        Part(4, 12, (part.meta["id"],), (KEY,)),
        Part(6, 9, (inner.meta["id"],), (OTHER,)),
    )


def test_a_dropped_shape_is_the_same_tensors_of_modules(built: Built, x: Node) -> None:
    whole = value(built, aten.add.Tensor, x, 1.0, key=None)
    heads = value(built, aten.reshape.default, whole, [-1, 3, 4])
    hand_up(heads)
    assert identity_of(whole) == Identity((whole.meta["id"],), (KEY,))


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        (aten.reshape.default, ([-1, 4],)),  # three rows of each token
        (aten.slice.Tensor, (1, 0, 6, 2)),
        (aten.slice.Tensor, (0, 0, 1)),
        (aten.permute.default, ([1, 0],)),
        (aten.add.Tensor, (1.0,)),
    ],
)
def test_anything_else_says_nothing_of_its_operand(
    built: Built, x: Node, target: Any, arguments: Any
) -> None:
    node = value(built, target, x, *arguments)
    assert seen_in_operand(node, identity_of(node)) is None


def test_a_result_that_nobody_reads_stays_known(built: Built, x: Node) -> None:
    both = value(built, aten.split.Tensor, x, 6, 1, key=None)
    second = value(built, operator.getitem, both, 1)
    hand_up(second)
    assert identity_of(both).result(1) == Identity((second.meta["id"],), (KEY,))
    assert identity_of(both).result(0) == Identity()


def test_columns_of_what_takes_the_place_of_several(built: Built, x: Node) -> None:
    old = value(built, aten.add.Tensor, x, 1.0)
    new = value(built, aten.add.Tensor, x, 2.0, key=None)
    hand_down_columns(old, new, 0, 6)
    hand_down_columns(x, new, 6, 12)  # no value of the captured model
    assert identity_of(new).parts == (Part(0, 6, (old.meta["id"],), (KEY,)),)


def test_an_abandoned_rewrite_hands_nothing_down() -> None:
    program = captured(tiny_config("glm4_moe"))
    before = {node: identity_of(node) for node in program.graph.nodes}
    rewriter, result = Rewriter(program, "test"), PassResult()
    node = next(each for each in program.graph.nodes if op_name(each) == "aten.silu")

    def rewritten(at: Node) -> bool:
        new = rewriter.call(aten.relu.default, (at.args[0],), replaces=(at,))
        rewriter.columns(at, new, 0, 1)
        rewriter.replace(at, new)
        refuse(at, "no")

    attempt(GATE_UP_MERGE, rewriter, node, result, rewritten)
    assert result.matches == []
    assert {node: identity_of(node) for node in program.graph.nodes} == before
