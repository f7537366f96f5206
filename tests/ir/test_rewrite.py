"""The rewriter: weights of one name that differ stay apart, nothing is replaced unchecked, and a
rewrite that fails midway leaves the program as it was."""

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
from glmc.ir.ops import Numerics
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes import gate_up_merge
from glmc.passes.base import AnchorPass
from glmc.weights.evaluate import evaluate
from glmc_runtime.errors import ExtensionError
from tests.support.traced import Traced, trace

aten = torch.ops.aten
Edit = Callable[[Rewriter, Node], None]


class TiedGates(nn.Module):
    """Two MLPs that share the gate and differ in the other projection."""

    def __init__(self) -> None:
        super().__init__()
        gate = nn.Linear(8, 16, bias=False)
        self.mlps = nn.ModuleList(
            nn.ModuleDict({"gate_proj": gate, "up_proj": nn.Linear(8, 16, bias=False)})
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = [
            silu(mlp["gate_proj"](x)) * mlp["up_proj"](x)  # type: ignore[index]
            for mlp in self.mlps
        ]
        return outputs[0] - outputs[1]


def tied_gates() -> Traced:
    """Traced once, a program of its own for each test."""
    kept = _tied_gates()
    return Traced(kept.program.copy(), kept.module)


@cache
def _tied_gates() -> Traced:
    return trace(TiedGates(), torch.randn(2, 3, 8))


def test_merged_weights_of_a_tied_projection_are_not_taken_for_each_other() -> None:
    traced = tied_gates()
    held = dict(traced.module.named_parameters(remove_duplicate=False))
    x = torch.randn(2, 3, 8)

    def run() -> Tensor:
        weights = {
            name: evaluate(weight, lambda key: held[key].detach())
            for name, weight in traced.program.weights.items()
        }
        inputs = {node.meta["input"]: x for node in traced.program.inputs()}
        return traced.program.run(inputs, weights)[0]

    before = run()
    assert len(traced.apply(gate_up_merge.PASS).matches) == 2
    assert len({node.args[1] for node in traced.nodes("glmc.linear")}) == 2
    torch.testing.assert_close(run(), before)


def test_a_pass_that_replaces_without_an_attempt_is_refused() -> None:
    traced = tied_gates()
    text, activated = traced.text(), traced.nodes("aten.silu")[0]
    with pytest.raises(ExtensionError, match="without having it checked"):
        Rewriter(traced.program, "alone").replace(activated, activated.all_input_nodes[0])
    assert traced.text() == text


def doubled(rewriter: Rewriter, anchor: Node) -> Node:
    return rewriter.call(aten.mul.Tensor, (anchor.args[0], 2.0), replaces=(anchor,))


def reads_a_later_one(rewriter: Rewriter, anchor: Node) -> None:
    first = doubled(rewriter, anchor)
    later = rewriter.call(aten.neg.default, (anchor,), replaces=(anchor,), before=first)
    first.update_arg(0, later)


def reads_itself_around(rewriter: Rewriter, anchor: Node) -> None:
    first, second = doubled(rewriter, anchor), doubled(rewriter, anchor)
    first.update_arg(0, second)
    second.update_arg(0, first)


def operand_by_hand(rewriter: Rewriter, anchor: Node) -> None:
    next(iter(anchor.users)).replace_input_with(anchor, doubled(rewriter, anchor))


def operand_of_the_graph(rewriter: Rewriter, anchor: Node) -> None:
    next(iter(anchor.users)).replace_input_with(anchor, anchor.all_input_nodes[0])


def node_by_hand(rewriter: Rewriter, anchor: Node) -> None:
    with rewriter.graph.inserting_after(anchor):
        node = rewriter.graph.call_function(aten.neg.default, (anchor,))
    anchor.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)


def weights_by_hand(rewriter: Rewriter, anchor: Node) -> None:
    weights = rewriter.program.weights
    name, weight = next(iter(weights.items()))
    rewriter.weight(replace(weight, name="another"))
    weights[name] = weights.pop("another")


def erased_by_itself(rewriter: Rewriter, anchor: Node) -> None:
    rewriter.graph.erase_node(doubled(rewriter, anchor))


EDITS: tuple[Edit, ...] = (
    *(reads_a_later_one, reads_itself_around, operand_by_hand, operand_of_the_graph),
    *(node_by_hand, weights_by_hand, erased_by_itself),
)


def rewritten(edit: Edit, then: Edit) -> tuple[Traced, AnchorPass[Node]]:
    """A program, and a pass that edits it at each silu and then goes on so."""

    def match(anchor: Node, program: Program) -> Node:
        m.operand(anchor, 0)
        return anchor

    def rewrite(rewriter: Rewriter, anchor: Node) -> None:
        edit(rewriter, anchor)
        then(rewriter, anchor)

    traced = tied_gates()
    return traced, AnchorPass("edits", Numerics.REORDERED, ("aten.silu",), match, rewrite)


def crashes(rewriter: Rewriter, anchor: Node) -> None:
    raise KeyError("no such thing")


def misses(rewriter: Rewriter, anchor: Node) -> None:
    m.refuse(anchor, "is of no use")


@pytest.mark.parametrize("then", [crashes, misses])
@pytest.mark.parametrize("edit", EDITS)
def test_a_rewrite_that_fails_midway_leaves_the_program_as_it_was(edit: Edit, then: Edit) -> None:
    traced, one = rewritten(edit, then)
    text, weights = traced.text(), dict(traced.program.weights)
    if then is crashes:
        with pytest.raises(KeyError, match="no such thing"):
            one.run(traced.program)
    else:
        result = one.run(traced.program)
        assert [miss.condition for miss in result.near_misses] == ["is of no use"] * 2
    assert (traced.text(), traced.program.weights) == (text, weights)
    traced.program.graph.lint()


def test_a_rewrite_that_erased_what_it_did_not_insert_is_refused() -> None:
    def erase(rewriter: Rewriter, anchor: Node) -> None:
        anchor.replace_all_uses_with(anchor.all_input_nodes[0])
        rewriter.graph.erase_node(anchor)

    traced, one = rewritten(erase, misses)
    with pytest.raises(ExtensionError, match="'edits' erased a node of a rewrite") as caught:
        one.run(traced.program)
    assert caught.value.code == "GLMC-2010" and "silu" in (caught.value.place or "")


@pytest.mark.parametrize("edit", [operand_by_hand, operand_of_the_graph])
def test_a_rewrite_that_rewired_nodes_by_itself_is_refused(edit: Edit) -> None:
    """Nothing would compare what these read with what they read before."""

    def goes_on(rewriter: Rewriter, anchor: Node) -> None:
        rewriter.replace(anchor, rewriter.call(anchor.target, anchor.args, replaces=(anchor,)))  # type: ignore[arg-type]

    traced, one = rewritten(edit, goes_on)
    with pytest.raises(ExtensionError, match="'edits' rewired a node without having it checked"):
        one.run(traced.program)
