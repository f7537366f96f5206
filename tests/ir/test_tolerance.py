"""Bounds: nothing for bitwise, tight enough for a dropped cast, wide enough for another order."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.fx import Graph, Node

from glmc.ir.ops import Numerics
from glmc.ir.tolerance import Tolerance, compare, condition_of, tolerance_of_call

BITWISE = Tolerance(Numerics.BITWISE)


def reordered(terms: int, roundings: int = 1, **more: float) -> Tolerance:
    return Tolerance(Numerics.REORDERED, terms, roundings, **more)  # type: ignore[arg-type]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_bitwise_allows_nothing_but_nan_for_nan() -> None:
    value = torch.tensor([1.0, math.nan, math.inf, -0.0])
    assert compare(value, value.clone(), BITWISE).allowed
    assert compare(value, torch.tensor([1.0, math.nan, math.inf, 0.0]), BITWISE).allowed
    for place, wrong in (
        (0, math.nextafter(1.0, 2.0) + 1e-7),
        (1, 0.0),
        (2, -math.inf),
        (0, math.nan),
    ):
        changed = value.clone()
        changed[place] = wrong
        assert not compare(value, changed, BITWISE).allowed


@pytest.mark.parametrize("class_", [BITWISE, reordered(1 << 20)])
def test_another_shape_dtype_or_kind_is_never_allowed(class_: Tolerance) -> None:
    value = normal(4, 3)
    for other in (value.t(), value.double(), value.tolist(), None, 3):
        assert math.isinf(compare(value, other, class_).error)
    assert not compare(torch.tensor([1, 2]), torch.tensor([1, 3]), class_).allowed
    assert compare(3, 3, class_).allowed and not compare(3, 3.0, class_).allowed


@pytest.mark.parametrize("width", [16, 256, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_sum_in_another_order_is_within_the_bound(dtype: torch.dtype, width: int) -> None:
    x, weight = normal(64, width).to(dtype), normal(width, 32, seed=1).to(dtype)
    order = torch.randperm(width, generator=torch.Generator().manual_seed(2))
    forward = (x.float() @ weight.float()).to(dtype)
    halves = x[:, order].float().double() @ weight[order].double()
    deviation = compare(forward, halves.to(dtype), reordered(width))
    assert deviation.allowed and deviation.share < 0.8


@pytest.mark.parametrize("width", [16, 256, 4096])
def test_a_dropped_cast_is_beyond_the_bound_of_float32(width: int) -> None:
    x, weight = normal(64, width), normal(width, 32, seed=1)
    rounded = x.bfloat16().float() @ weight.bfloat16().float()
    deviation = compare(x @ weight, rounded, reordered(width))
    assert deviation.share > 20


def test_bfloat16_sums_are_beyond_the_bound_of_one_rounding() -> None:
    """Partial sums that are rounded to bfloat16, as a kernel without a float32 accumulator has."""
    x, weight = normal(64, 512).bfloat16(), normal(512, 32, seed=1).bfloat16()
    total = torch.zeros(64, 32, dtype=torch.bfloat16)
    for begin in range(0, 512, 4):
        total = total + x[:, begin : begin + 4] @ weight[begin : begin + 4]
    exact = (x.float() @ weight.float()).bfloat16()
    assert compare(exact, total, reordered(512)).share > 1.5


def test_the_bound_follows_the_row_that_is_larger() -> None:
    value = torch.cat((normal(1, 64), 1e3 * normal(1, 64, seed=1)))
    bound = reordered(64).bound(value)
    assert bound.shape == (2, 1) and bound[1] > bound[0] > 0


def test_nan_in_another_row_is_a_difference_and_in_the_same_is_none() -> None:
    """As of a query that sees nothing: what it gives is NaN or zeros, which is not the same."""
    value = normal(3, 4, 8)
    value[1, 2] = math.nan
    moved = normal(3, 4, 8)
    moved[1, 3] = math.nan
    for wrong in (value.nan_to_num(0.0), moved):
        assert math.isinf(compare(value, wrong, reordered(8)).share)
        assert math.isinf(compare(wrong, value, reordered(8)).share)
    assert compare(value, value * (1 + 1e-7), reordered(8)).allowed
    assert math.isinf(compare(value, torch.full_like(value, math.nan), reordered(8)).share)


@pytest.mark.parametrize("scale", [None, 0.25, -2.0])
def test_the_condition_of_an_attention_takes_its_scale_wherever_that_stands(
    scale: float | None,
) -> None:
    q, k = normal(1, 3, 2, 16), normal(1, 2, 5, 16, seed=1)
    graph = Graph()
    q_node, k_node = (graph.placeholder(name) for name in "qk")
    for node, value in ((q_node, q), (k_node, k)):
        node.meta["val"] = value
    ops = torch.ops
    if scale is None:
        target, rest = ops.aten.scaled_dot_product_attention.default, ()
    else:
        target, rest = ops.glmc.masked_attention.default, (None, scale, False, True)
    node = graph.call_function(target, (q_node, k_node, k_node, *rest))
    longest = float(q.norm(dim=-1).max() * k.norm(dim=-1).max())
    expected = 1 + longest * abs(0.25 if scale is None else scale)
    assert condition_of(node, {q_node: q, k_node: k}) == pytest.approx(expected)


@pytest.mark.parametrize("width", [None, 16])
def test_a_cache_write_is_exact(width: int | None) -> None:
    graph = Graph()

    def operand(name: str, *shape: int) -> Node:
        node = graph.placeholder(name)
        node.meta["val"] = normal(*shape)
        return node

    norms = [None if width is None else operand(name, width) for name in ("q_norm", "k_norm")]
    caches = [operand(name, 2, 2, 4, 16) for name in ("k_cache", "v_cache")]
    others = [operand(name, 4) for name in ("positions", "frequencies", "slots")]
    arguments = (operand("qkv", 4, 96), *norms, *others, *caches, 2, 2, 16, False, 1.0, 1e-5)
    node = graph.call_function(torch.ops.glmc.qkv_rope_cache.default, arguments)
    assert tolerance_of_call(node) == BITWISE


def test_a_softmax_amplifies_and_a_budget_is_for_approximate_passes_alone() -> None:
    plain = reordered(64).relative(torch.float32)
    assert reordered(64, condition=11.0).relative(torch.float32) > 5 * plain
    stored = reordered(64, condition=11.0, scores=1).relative(torch.bfloat16)
    assert stored > 5 * reordered(64).relative(torch.bfloat16)
    assert reordered(64, budget=0.5).relative(torch.float32) == plain
    approximate = Tolerance(Numerics.APPROXIMATE, 64, 1, budget=0.5)
    assert approximate.relative(torch.float32) == pytest.approx(plain + 0.5)
