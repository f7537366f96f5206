"""Evaluation: a matcher that reads everything and understands it wrongly is found by numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.functional import silu

from glmc.ir import match as m
from glmc.ir.evaluation import LARGEST, Rewritten, evaluate
from glmc.ir.instances import FULL, SMALL
from glmc.ir.ops import Numerics
from glmc.ir.ops.linear import SILU_MUL
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes import attention, gate_up_merge
from glmc.passes.base import AnchorPass, PassResult
from glmc.pipeline.runner import fuse
from tests.support.models import captured, tiny_config
from tests.support.traced import Traced, conditions, trace
from tests.zoo import masked

SHAPE = (2, 3, 8)


class Activated(nn.Module):
    """``edit`` is put around the gate."""

    def __init__(self, edit: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.edit = edit

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return silu(self.edit(x)) * y


def match(anchor: Node, program: Program) -> tuple[Node, Node, Node]:
    """Reads all there is of the node before silu, and takes its operand."""
    gate = m.operand(anchor, 0)
    product = m.sole_user(anchor, "aten.mul")
    if gate.op == "call_function":
        gate = next(value for value in m.arguments(gate) if isinstance(value, Node))
    return gate, m.other_operand(product, anchor), product


def rewrite(rewriter: Rewriter, found: tuple[Node, Node, Node]) -> None:
    gate, up, product = found
    new = rewriter.call(SILU_MUL.overload, (gate, up), replaces=(product,))
    rewriter.replace(product, new)


TAKES_ALL = AnchorPass("takes_all", Numerics.BITWISE, ("aten.silu",), match, rewrite)


def applied(edit: Callable[[Tensor], Tensor]) -> tuple[Traced, PassResult]:
    traced = trace(Activated(edit), torch.randn(SHAPE), torch.randn(SHAPE))
    return traced, traced.apply(TAKES_ALL)


@pytest.mark.parametrize(
    "edit",
    [
        lambda x: x * 1.5,
        lambda x: x.clamp(-40.0),  # only values far apart tell
        lambda x: x.clamp_min(-1e-3),
        lambda x: x - 2.0**-20,  # only values next to nothing tell bit by bit
    ],
    ids=["scaled", "clamped far off", "clamped", "shifted a little"],
)
def test_what_changes_a_value_is_no_match(edit: Callable[[Tensor], Tensor]) -> None:
    traced, result = applied(edit)
    (reason,) = conditions(result)
    assert "glmc.silu_mul differ by" in reason and "where 0 is allowed" in reason
    assert not result.matches and not traced.nodes("glmc.silu_mul")


def test_what_changes_nothing_stands() -> None:
    traced, result = applied(lambda x: x * 1.0 + 0.0)
    assert len(result.matches) == 1 and len(traced.nodes("glmc.silu_mul")) == 1


class Layers(nn.Module):
    def __init__(self, count: int, scales: tuple[float, ...]) -> None:
        super().__init__()
        self.scales = scales * count

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for scale in self.scales:
            x = silu(x) * y + scale
        return x


def test_equal_layers_are_evaluated_once() -> None:
    traced = trace(Layers(4, (1.0,)), torch.randn(SHAPE), torch.randn(SHAPE))
    result = traced.apply(plain_pass())
    assert (len(result.matches), result.evaluations) == (4, [FULL])
    assert result.evaluation_seconds > 0


def plain_pass() -> AnchorPass[tuple[Node, Node, Node]]:
    """The pass that takes silu's operand as it is."""

    def plain(anchor: Node, program: Program) -> tuple[Node, Node, Node]:
        product = m.sole_user(anchor, "aten.mul")
        return m.operand(anchor, 0), m.other_operand(product, anchor), product

    return AnchorPass("plain", Numerics.BITWISE, ("aten.silu",), plain, rewrite)


class Wide(nn.Module):
    """The weights of a large model, which nobody fills: 96 MiB each in float32."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.gate = nn.Linear(4096, 6144, bias=False)
            self.up = nn.Linear(4096, 6144, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return silu(self.gate(x)) * self.up(x)


@cache
def _wide() -> Traced:
    return trace(Wide(), torch.empty(2, 3, 4096, device="meta"))


def wide() -> Traced:
    """Traced once, a program of its own for each test."""
    kept = _wide()
    return Traced(kept.program.copy(), kept.module)


def test_a_large_region_is_run_small() -> None:
    traced = wide()
    assert LARGEST < 4 * 4096 * 6144
    result = traced.apply(gate_up_merge.PASS)
    assert (len(result.matches), result.evaluations) == (1, [SMALL])


def test_a_small_instance_tells_a_swapped_merge() -> None:
    """Rows of up before those of gate."""

    def swapped(rewriter: Rewriter, pair: gate_up_merge.Pair) -> None:
        turned = gate_up_merge.Pair(pair.up, pair.gate, pair.silu, pair.result)
        gate_up_merge.rewrite(rewriter, turned)

    traced = wide()
    wrong = AnchorPass(
        "gate_up_merge", Numerics.REORDERED, ("aten.silu",), gate_up_merge.match, swapped
    )
    (reason,) = conditions(traced.apply(wrong))
    assert "the block and glmc.swiglu differ by" in reason
    assert not [name for name in traced.program.weights if "gate_up" in name]


@pytest.mark.parametrize(
    ("name", "shown"), [*((name, False) for name in masked.SPELLINGS), ("sdpa", True)]
)
def test_what_a_query_gets_that_sees_nothing_is_found_out(name: str, shown: bool) -> None:
    """An attention that has it the other way round: only a mask that hides a whole row tells.
    ``shown``: the mask says what is seen, and is not added."""
    *given, mask = masked.operands(5)
    traced = trace(masked.Masked(name), *given, mask == 0 if shown else mask)
    traced.program.phase = "traced"

    def turned(rewriter: Rewriter, found: attention.Attention) -> None:
        attention.rewrite(rewriter, replace(found, safe_softmax=not found.safe_softmax))

    wrong = replace(attention.PASS, rewrite=turned)
    (reason,) = conditions(traced.apply(wrong))
    assert "differ by inf" in reason and reason.endswith("on hidden values")
    assert not traced.nodes("glmc.masked_attention")


def test_a_refused_rewrite_leaves_the_graph_as_it_was() -> None:
    module = Activated(lambda x: x * 1.5)
    traced = trace(module, torch.randn(SHAPE), torch.randn(SHAPE))
    text = traced.text()
    traced.apply(TAKES_ALL)
    assert traced.text() == text


def test_an_attempt_can_be_evaluated_alone() -> None:
    traced = trace(Activated(lambda x: x), torch.randn(SHAPE), torch.randn(SHAPE))
    rewriter = Rewriter(traced.program, "alone")
    tried = rewriter.begin()
    (anchor,) = traced.nodes("aten.silu")
    rewrite(rewriter, match(anchor, traced.program))
    outcome = evaluate(Rewritten.of(tried), traced.program, Numerics.BITWISE)
    rewriter.abandon()
    assert (outcome.instance, outcome.difference) == (FULL, "")


def test_a_small_instance_whose_sums_shrink_otherwise_is_no_difference() -> None:
    """Rows of q are divided, those of k and v stay: their sum, which is divided too, fits nothing,
    and the next divisor must be tried."""
    wide = {"hidden_size": 1024, "num_attention_heads": 16, "head_dim": 64, "num_hidden_layers": 1}
    program = captured(tiny_config("glm4", num_key_value_heads=2, **wide))
    records = {record.name: record for record in fuse(program)}
    assert len(records["qkv_merge"].matches) == 1
    assert records["qkv_merge"].near_misses == ()
