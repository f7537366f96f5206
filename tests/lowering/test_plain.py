"""Rules for ATen ops: on every target each lowers to one call that gives the op's own numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Node

from glmc.backends import target_by_name
from glmc.errors import LoweringError
from glmc.ir.ops.linear import JOIN_QKV
from glmc.lowering import plain
from glmc.lowering.target import Target
from tests.backends.planned import TOKENS, WIDTH, Built, lowered, run

aten = torch.ops.aten
TARGETS = [target_by_name("cpu"), target_by_name("xpu")]
# Each on hidden [tokens, 8] and a weight [8]; the kernels that it may take.
CASES: dict[str, tuple[Callable[[Built, Node, Node], Node], list[str]]] = {
    "add": (lambda b, x, w: b.call(aten.add.Tensor, x, x), ["aten.add"]),
    "add a number": (lambda b, x, w: b.call(aten.add.Tensor, x, 1e-5), ["aten.add"]),
    "mul by a weight": (lambda b, x, w: b.call(aten.mul.Tensor, w, x), ["aten.mul"]),
    "mul by a number": (lambda b, x, w: b.call(aten.mul.Tensor, x, 3), ["aten.mul"]),
    "silu": (lambda b, x, w: b.call(aten.silu.default, x), ["aten.silu"]),
    "pow": (lambda b, x, w: b.call(aten.pow.Tensor_Scalar, x, 2), ["aten.pow"]),
    "slice": (lambda b, x, w: b.call(aten.slice.Tensor, x, -1, 3, 7), ["aten.slice_columns"]),
    "slice to the end": (
        lambda b, x, w: b.call(aten.slice.Tensor, x, 1, 2, 99),
        ["aten.slice_columns"],
    ),
    "mean": (lambda b, x, w: b.call(aten.mean.dim, x, [-1], True), ["aten.mean_columns"]),
    "rsqrt": (
        lambda b, x, w: b.call(aten.rsqrt.default, b.call(aten.pow.Tensor_Scalar, x, 2)),
        ["aten.pow", "aten.rsqrt"],
    ),
    "a column over all": (
        lambda b, x, w: b.call(aten.mul.Tensor, x, b.call(aten.mean.dim, x, [1], True)),
        ["aten.mean_columns", "aten.mul"],
    ),
}


def built_case(name: str) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
    built = Built()
    generator = torch.Generator().manual_seed(0)
    hidden, weight = built.input("hidden", "tokens", WIDTH), built.weight("scale", WIDTH)
    program = built.program(CASES[name][0](built, hidden, weight))
    program.weights = {key: program.weights[key] for key in ("scale",)}
    inputs = {"hidden": torch.randn(TOKENS, WIDTH, generator=generator)}
    return program, inputs, {"scale": torch.randn(WIDTH, generator=generator)}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("name", CASES)
def test_one_call_gives_the_numbers_of_the_op(name: str, target: Target) -> None:
    program, inputs, weights = built_case(name)
    (expected,) = program.run(inputs, weights)
    plan = lowered_plainly(program, target)
    assert [call.function for call in plan.calls] == CASES[name][1]
    assert torch.equal(run(plan, inputs, weights), expected)


def lowered_plainly(program: Any, target: Target) -> Any:
    """The target's rules without its check of the model, which the toy would not pass."""
    bare = Target(target.name, target.rules, target.cache_layout, target.dtypes)
    return lowered(bare, program).plan


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_cast_writes_another_dtype(target: Target) -> None:
    built = Built()
    hidden = built.input("hidden", "tokens", WIDTH)
    cast = built.call(aten._to_copy.default, hidden, dtype=torch.float64)
    plan = lowered_plainly(built.program(cast), target)
    (call,) = plan.calls
    assert call.function == "aten.copy"
    assert [buffer.dtype for buffer in plan.buffers] == ["float64"]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_join_qkv(target: Target) -> None:
    built, heads = Built(), {"q": 3, "k": 1, "v": 1}
    q, k, v = (built.input(name, "tokens", count, 4) for name, count in heads.items())
    program = built.program(built.call(JOIN_QKV.overload, q, k, v))
    inputs = {
        name: torch.arange(count * 4.0 * TOKENS).view(TOKENS, count, 4) + count
        for name, count in heads.items()
    }
    inputs["v"] = -inputs["v"]
    (expected,) = program.run(inputs, {})
    assert expected.shape == (TOKENS, 20)
    assert torch.equal(run(lowered_plainly(program, target), inputs, {}), expected)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda b, x: b.call(aten.mean.dim, x, [0], True), "only a mean over the last"),
        (lambda b, x: b.call(aten.mean.dim, x, [1], False), "only a mean over the last"),
        (lambda b, x: b.call(aten.slice.Tensor, x, 0, 0, 2), "only a slice of columns"),
        (lambda b, x: b.call(aten.slice.Tensor, x, 1, 0, 6, 2), "all arguments"),
        (lambda b, x: b.call(aten.add.Tensor, x, x, alpha=2), "alpha"),
        (lambda b, x: b.call(aten.add.Scalar, x, 1, 2), "all arguments"),
        (lambda b, x: b.call(aten._to_copy.default, x, non_blocking=True), "non_blocking"),
    ],
)
def test_other_forms_are_refused(call: Callable[[Built, Node], Node], reason: str) -> None:
    built = Built()
    program = built.program(call(built, built.input("hidden", "tokens", WIDTH)))
    with pytest.raises(LoweringError, match=reason):
        lowered_plainly(program, TARGETS[0])


def test_both_targets_have_every_plain_rule() -> None:
    for target in TARGETS:
        assert set(plain.RULES) <= set(target.rules)
        assert {name: target.rules[name] for name in plain.RULES} == dict(plain.RULES)
