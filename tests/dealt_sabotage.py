"""Programs of a rank that are broken on purpose: each sabotage with the value that comes out wrong.

They edit what the pass that deals a model to ranks has made, of a model of two KV heads with 97
entries in its vocabulary, on two ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.layout import Layout, Run
from glmc.ir.program import Program
from glmc.ir.recipe import ByRank, Dealt, First
from glmc.passes import shard
from glmc.passes.base import PassResult

VOCABULARY = 97
LAYER = 1
PLACE = f"model.layers.{LAYER}"


@dataclass(frozen=True)
class DealtSabotage:
    """``edit`` breaks a program; ``node`` is the value that is wrong then."""

    edit: Callable[[Program], None]
    node: str


class _Moved(Layout):
    """The second rank has the first KV head, and the first rank the second."""

    def runs(self, rank: int) -> tuple[Run, ...]:
        return super().runs(self.ranks - 1 - rank)


class _Filled(Layout):
    """What fills up the last rank is the first entry once more."""

    def runs(self, rank: int) -> tuple[Run, ...]:
        runs = super().runs(rank)
        return tuple(Run(0, run.length) if run.start is None else run for run in runs)


def _call(program: Program, name: str) -> Node:
    return next(node for node in program.graph.nodes if node.meta.get("id") == name)


def _summand_twice(program: Program) -> None:
    """What the first all-reduce of a layer has added up is added up again."""
    node = _call(program, f"{PLACE}.self_attn.o_proj#linear.all_reduce")
    with program.graph.inserting_after(node):
        again = program.graph.call_function(node.target, (node,))
    again.meta = {**node.meta, "id": f"{node.meta['id']}.again"}
    node.replace_all_uses_with(again, delete_user_cb=lambda user: user is not again)


def _no_all_reduce(program: Program) -> None:
    node = _call(program, f"{PLACE}.self_attn.o_proj#linear.all_reduce")
    node.replace_all_uses_with(node.all_input_nodes[0])
    program.graph.erase_node(node)


def with_bias(program: Program) -> Program:
    """Attention of a layer ends with a bias, which none of our models has: a paged program."""
    end = _call(program, f"{PLACE}.self_attn.o_proj#linear")
    like = next(
        node for node in program.placeholders() if node.meta.get("weight") == "model.norm.weight"
    )
    with program.graph.inserting_before(like):
        bias = program.graph.placeholder("bias")
    bias.meta = {**like.meta, "weight": "bias", "id": "bias"}
    program.weights["bias"] = replace(program.weights["model.norm.weight"], name="bias")
    end.args = (*end.args[:2], bias)
    return program


def bias_on_all_ranks(program: Program) -> None:
    """Each rank adds what the first alone may add."""
    for name, weight in list(program.weights.items()):
        if isinstance(weight.recipe, First):
            program.weights[name] = replace(weight, recipe=weight.recipe.recipe)


def _kv_heads_elsewhere(program: Program) -> None:
    """The weights of a layer are dealt in another order than its values."""
    call = next(
        node
        for node in program.graph.nodes
        if m.is_op(node, "glmc.linear") and node.meta["id"].startswith(f"{PLACE}.self_attn.q")
    )
    name = m.operand(call, 1).meta["weight"]
    _deal_by(program, name, _Moved)


def _deal_by(program: Program, name: str, kind: type[Layout]) -> None:
    weight = program.weights[name]
    assert isinstance(weight.recipe, Dealt)
    layout = weight.recipe.layout
    recipe = replace(weight.recipe, layout=kind(layout.sections, layout.ranks))
    program.weights[name] = replace(weight, recipe=recipe)


def _vocabulary_off_by_one(program: Program) -> None:
    name = f"first_of_{VOCABULARY}"
    recipe = program.weights[name].recipe
    assert isinstance(recipe, ByRank)
    values = tuple(value - 1 for value in recipe.values)
    program.weights[name] = replace(program.weights[name], recipe=ByRank(values))


def _padding_not_zero(program: Program) -> None:
    _deal_by(program, "lm_head.weight", _Filled)


DEALT: Mapping[str, DealtSabotage] = {
    "summand_twice": DealtSabotage(
        _summand_twice, f"{PLACE}.self_attn.o_proj#linear.all_reduce.again"
    ),
    "no_all_reduce": DealtSabotage(_no_all_reduce, f"{PLACE}.self_attn.o_proj#linear"),
    "kv_heads_elsewhere": DealtSabotage(_kv_heads_elsewhere, f"{PLACE}.self_attn.qkv_proj#linear"),
    "vocabulary_off_by_one": DealtSabotage(_vocabulary_off_by_one, "model.embed_tokens#embedding"),
    "padding_not_zero": DealtSabotage(_padding_not_zero, "lm_head#linear"),
}


def install(patch: pytest.MonkeyPatch, name: str) -> None:
    """The pass that deals a model leaves what the sabotage makes of it."""
    real = shard.sharded

    def broken(*given: object, **named: object) -> tuple[Program, PassResult]:
        after, result = real(*given, **named)  # type: ignore[arg-type]
        DEALT[name].edit(after)
        return after, result

    patch.setattr(shard, "sharded", broken)
