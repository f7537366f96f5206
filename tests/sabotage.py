"""Passes broken on purpose, one way each, for the tools that must find them.

Each runs the real pass and then edits what it has just inserted, in every layer or in those of
``layers``. ``SABOTAGES`` names them all; ``sabotaged(name, layers)`` makes one. A compile refuses
nearly all of them by itself, since no rewrite stands before it was accounted for and evaluated;
``--verify`` and ``bisect`` are the second net, so what tests them runs the broken pass unchecked.
What a lowering may get wrong is in ``PLAN_SABOTAGES``, by target; see :func:`with_wrong_constant`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch.fx import Node

from glmc.compiled import Compiled
from glmc.ir import match as m
from glmc.ir.program import Program
from glmc.ir.recipe import Concatenate
from glmc.ir.rewrite import Rewriter
from glmc.lowering.lower import Lowered
from glmc.passes import base, kv_cache
from glmc.passes.base import AnchorPass, Pass, PassResult
from glmc.passes.kv_cache import KvCache, Layer
from glmc.passes.paging_evaluation import Replaced
from glmc.pipeline import runner
from glmc.pipeline import stages as pipeline
from glmc_runtime.format.plan import Call, ValueArgument

aten = torch.ops.aten
Edit = Callable[[Rewriter, Node], None]
EditNew = Callable[[Rewriter, Sequence[Node]], None]


@dataclass(frozen=True)
class Sabotage:
    """``passes`` are for ``runner.fuse``, ``paging`` stands for ``runner.KvCache``."""

    name: str
    pass_name: str
    passes: tuple[Pass, ...]
    paging: type[KvCache] = KvCache

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Make every compile run the broken pass."""
        patch.setattr(pipeline, "PASSES", self.passes)
        patch.setattr(runner, "KvCache", self.paging)


class Unchecked(AnchorPass[Any]):
    """A pass whose rewrites stand unseen: the compile's own accounting and evaluation are off while
    it runs, so that only the second net can find what it does wrong."""

    def run(self, program: Program) -> PassResult:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(base, "_require_accounted", lambda *given: None)
            patch.setattr(base, "_require_same", lambda *given: None)
            return super().run(program)


def unchecked(one: AnchorPass[Any]) -> Unchecked:
    return Unchecked(one.name, one.numerics, one.anchors, one.match, one.rewrite, one.budget)


def sabotaged(name: str, layers: Collection[int] | None = None) -> Sabotage:
    """The sabotage of that name, in the given layers only, hidden from the compile's own checks."""
    pass_name, edit_new = _EDITS[name][0], _edit_new(name, layers)
    if pass_name == KvCache.name:
        return Sabotage(name, pass_name, pipeline.PASSES, _unseen(_paging(edit_new)))
    passes = tuple(
        unchecked(_broken(one, edit_new)) if one.name == pass_name else one
        for one in pipeline.PASSES
    )
    return Sabotage(name, pass_name, passes)


def _edit_new(name: str, layers: Collection[int] | None) -> EditNew:
    _, op, edit = _EDITS[name]

    def edit_new(rewriter: Rewriter, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if m.is_op(node, op) and (layers is None or node.meta["layer"] in layers):
                edit(rewriter, node)

    return edit_new


def checked_paging(name: str, layers: Collection[int] | None = None) -> type[KvCache]:
    """The broken kv_cache of that name as a compile would run it, with its checks on."""
    return _paging(_edit_new(name, layers))


def checked(sabotage: Sabotage) -> AnchorPass[Any]:
    """The broken pass as a compile would run it, with its checks on."""
    (one,) = (one for one in sabotage.passes if isinstance(one, Unchecked))
    return AnchorPass(one.name, one.numerics, one.anchors, one.match, one.rewrite, one.budget)


def _broken(one: Pass, edit_new: EditNew) -> AnchorPass[Any]:
    assert isinstance(one, AnchorPass)

    def rewrite(rewriter: Rewriter, binding: Any) -> None:
        old = set(rewriter.graph.nodes)
        one.rewrite(rewriter, binding)
        edit_new(rewriter, [node for node in rewriter.graph.nodes if node not in old])

    return replace(one, rewrite=rewrite)


def _paging(edit_new: EditNew) -> type[KvCache]:
    class Broken(KvCache):
        def rebuilt(
            self, program: Program, layers: dict[Node, Layer]
        ) -> tuple[Program, list[Replaced]]:
            after, sides = super().rebuilt(program, layers)
            edit_new(Rewriter(after, KvCache.name), list(after.graph.nodes))
            after.graph.lint()
            after.graph_module.recompile()
            return after, sides

    return Broken


def _unseen(broken: type[KvCache]) -> type[KvCache]:
    """As :class:`Unchecked`, for what rebuilds the graph whole."""

    class Unseen(broken):  # type: ignore[misc, valid-type]
        def run(self, program: Program) -> PassResult:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(kv_cache, "require_same", lambda *given: PassResult())
                result: PassResult = super().run(program)
                return result

    return Unseen


def _argument(index: int, change: Callable[[Any], Any]) -> Edit:
    """Put something else in place of a constant."""

    def edit(rewriter: Rewriter, node: Node) -> None:
        node.update_arg(index, change(node.args[index]))

    return edit


def _operand(index: int, *calls: tuple[Any, ...]) -> Edit:
    """Put an operand through calls, each a target and what follows the operand."""

    def edit(rewriter: Rewriter, node: Node) -> None:
        value = node.args[index]
        for target, *more in calls:
            value = rewriter.call(target, (value, *more), replaces=(node,), before=node)
        node.update_arg(index, value)

    return edit


def _rows(order: tuple[int, ...]) -> Edit:
    """Put the parts of a merged weight, and of its bias, below each other in another order."""

    def edit(rewriter: Rewriter, node: Node) -> None:
        weights = rewriter.program.weights
        for operand in node.args[1:]:
            if isinstance(operand, Node):
                weight = weights[operand.meta["weight"]]
                assert isinstance(weight.recipe, Concatenate)
                parts = tuple(weight.recipe.parts[index] for index in order)
                weights[weight.name] = replace(weight, recipe=Concatenate(parts))

    return edit


def _half_turned(rewriter: Rewriter, node: Node) -> None:
    """The second half of each rotated head first."""
    half = int(m.shape(node.args[2])[0])
    x = node.args[0]
    second = rewriter.call(
        aten.slice.Tensor, (x, -1, half, 2 * half), replaces=(node,), before=node
    )
    first = rewriter.call(aten.slice.Tensor, (x, -1, 0, half), replaces=(node,), before=node)
    rest = rewriter.call(
        aten.slice.Tensor, (x, -1, 2 * half, 1 << 40), replaces=(node,), before=node
    )
    joined = rewriter.call(
        aten.cat.default, ([second, first, rest], -1), replaces=(node,), before=node
    )
    node.update_arg(0, joined)


def _gate_spelled(biased: bool, rounded: bool) -> Edit:
    """The weights of the chosen experts from plain calls: biased scores, or a bfloat16 router."""

    def edit(rewriter: Rewriter, gate: Node) -> None:
        x, weight, bias, *_, normalize, eps, scale = gate.args
        weights, ids = (
            next(user for user in gate.users if user.args[1] == index) for index in (0, 1)
        )

        def call(target: Callable[..., Any], *arguments: Any) -> Node:
            return rewriter.call(target, arguments, replaces=(gate,), before=weights.next)

        dtype = torch.bfloat16 if rounded else torch.float32
        x, weight = call(aten.to.dtype, x, dtype), call(aten.to.dtype, weight, dtype)
        logits = call(aten.to.dtype, call(aten.linear.default, x, weight), torch.float32)
        scores = call(aten.sigmoid.default, logits)
        if biased:
            scores = call(aten.add.Tensor, scores, bias)
        chosen = call(aten.gather.default, scores, 1, ids)
        if normalize:
            total = call(aten.sum.dim_IntList, chosen, [-1], True)
            chosen = call(aten.div.Tensor, chosen, call(aten.add.Tensor, total, eps))
        chosen = call(aten.mul.Tensor, chosen, scale)
        rewriter.replace(weights, chosen)

    return edit


def _routed_alone(rewriter: Rewriter, node: Node) -> None:
    rewriter.replace(node, node.args[3])  # type: ignore[arg-type]


_GATE = ("moe_gate", "glmc.moe_gate")
_EDITS: dict[str, tuple[str, str, Edit]] = {
    "wrong_norm_eps": ("rms_norm", "glmc.rms_norm", _argument(2, lambda eps: eps / 10)),
    "interleaved_rope": ("rope", "glmc.rope", _argument(3, lambda interleaved: not interleaved)),
    "swapped_rope_halves": ("rope", "glmc.rope", _half_turned),
    "rope_scaling_off": ("rope", "glmc.rope", _argument(4, lambda scaling: scaling * 1.01)),
    "missing_attention_scale": ("attention", "glmc.attention", _argument(3, lambda scale: 1.0)),
    "wrong_qkv_order": ("qkv_merge", "glmc.linear", _rows((0, 2, 1))),
    "biased_scores_as_weights": (*_GATE, _gate_spelled(biased=True, rounded=False)),
    "router_in_bfloat16": (*_GATE, _gate_spelled(biased=False, rounded=True)),
    "routed_scale_missing": (*_GATE, _argument(9, lambda scale: 1.0)),
    "routed_scale_twice": (*_GATE, _argument(9, lambda scale: scale * scale)),
    "normalise_eps_dropped": (*_GATE, _argument(8, lambda eps: 0.0)),
    "expert_weights_in_bfloat16": (
        *("moe_ffn", "glmc.moe_ffn"),
        _operand(1, (aten.to.dtype, torch.bfloat16), (aten.to.dtype, torch.float32)),
    ),
    "swapped_gate_up": ("gate_up_merge", "glmc.linear", _rows((1, 0))),
    "shared_expert_dropped": ("shared_expert", "glmc.shared_expert", _routed_alone),
    "residual_twice": (
        *("add_rms_norm", "glmc.add_rms_norm"),
        _operand(0, (aten.mul.Tensor, 2.0)),
    ),
    "cache_slot_off_by_one": (
        *("kv_cache", "glmc.qkv_rope_cache"),
        _operand(5, (aten.add.Tensor, 1)),
    ),
    "cache_rope_interleaved": (
        *("kv_cache", "glmc.qkv_rope_cache"),
        _argument(11, lambda interleaved: not interleaved),
    ),
}
SABOTAGES = tuple(_EDITS)

_PLAN_EDITS: dict[str, tuple[tuple[str, ...], str, Callable[[Any], Any]]] = {
    "plan_norm_eps": (("norm",), "eps", lambda eps: eps / 10),
    "plan_decode_scale": (
        *(("decode_attention", "speculative_attention"), "scale"),
        lambda scale: scale * 1.02,
    ),
    "plan_prefill_scale": (("prefill_attention",), "scale", lambda scale: scale * 1.02),
    "plan_prefill_alpha": (("prefill_attention",), "alpha", lambda alpha: alpha * 1.02),
    "plan_routed_scale": (("moe_gate", "moe_sigmoid_group_topk_norm"), "scale", lambda _: 1.0),
    "plan_rope_interleaved": (
        *(("qkv_rope_cache",), "interleaved"),
        lambda interleaved: not interleaved,
    ),
    "plan_rope_neox": (("rotary_embedding",), "is_neox", lambda neox: not neox),
}
_OF_ONE_TARGET = {
    "cpu": ("plan_prefill_scale", "plan_rope_interleaved"),
    "xpu": ("plan_prefill_alpha", "plan_rope_neox"),
}
PLAN_SABOTAGES = {
    target: tuple(
        name
        for name in _PLAN_EDITS
        if not any(name in names for other, names in _OF_ONE_TARGET.items() if other != target)
    )
    for target in _OF_ONE_TARGET
}
# A call that fails. No artifact has it, since the schema of the kernel refuses it.
_PLAN_EDITS["plan_without_eps"] = (("norm",), "eps", lambda eps: None)


def with_wrong_constant(compiled: Compiled, name: str) -> Compiled:
    """A compile whose lowering put a wrong constant into every call of a kind."""
    functions, argument, change = _PLAN_EDITS[name]
    edited = 0

    def call(one: Call) -> Call:
        nonlocal edited
        value = one.arguments.get(argument)
        if not one.function.endswith(functions) or not isinstance(value, ValueArgument):
            return one
        edited += 1
        return replace(
            one, arguments={**one.arguments, argument: ValueArgument(change(value.value))}
        )

    def lowered(one: Lowered) -> Lowered:
        return replace(one, plan=replace(one.plan, calls=tuple(map(call, one.plan.calls))))

    wrong = replace(
        compiled, phases={key: lowered(phase) for key, phase in compiled.phases.items()}
    )
    assert edited
    return wrong
