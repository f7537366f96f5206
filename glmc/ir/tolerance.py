"""Tolerance between two computations of one value, by the numerics class of the pass.

* bitwise: not at all; NaN equals NaN.
* reordered: sums may be formed in another order and intermediates rounded at other places. With
  independent errors, n of them add up to about sqrt(n) (Higham and Mary, "A new approach to
  probabilistic rounding error analysis", SIAM Journal on Scientific Computing 41(5), 2019).
  Kernels accumulate in float32 at least, and each stored value is rounded to its dtype. So

      bound = CONFIDENCE * (condition * (sqrt(terms) * u_float32 + scores * u_dtype)
                            + sqrt(roundings) * u_dtype) * magnitude

  where ``terms`` adds up the lengths of all reductions of the longer half, ``roundings`` counts the
  values that it computes and stores, u is the unit roundoff and ``magnitude`` the root mean square
  of the value's row, or of the whole value where that is larger: errors come from the summands,
  which may be larger than their sum. A softmax turns an absolute error of its scores into a
  relative one of its result: ``condition`` is 1 + the largest score that there can be (the product
  of the longest query, the longest key and the scale) where attention is computed, 1 elsewhere;
  ``scores`` is 1 where they are stored in the dtype of the values on the way, as eager code does.
* approximate: as reordered, and the pass's ``budget`` times the magnitude more. No pass of ours
  declares it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.accounting import given
from glmc.ir.ops import Numerics, semantic_op
from glmc.ir.ops.aten import VIEWS, aten_facts
from glmc.ir.ops.facts import KEYS

CONFIDENCE = 6.0
# Keys of the longest input that is compared (see cases.py).
LONGEST = 64


@dataclass(frozen=True)
class Tolerance:
    """The parts of the bound as above, of one region or one node. ``own``: the magnitude of an
    element counts where it is larger than its row's, for a value that is rounded again as it is."""

    numerics: Numerics
    terms: int = 0
    roundings: int = 0
    scores: int = 0
    condition: float = 1.0
    budget: float = 0.0
    own: bool = False

    def bound(self, value: Tensor) -> Tensor:
        """The largest allowed difference for each element of ``value``, broadcastable to it."""
        if self.numerics is Numerics.BITWISE or not value.is_floating_point():
            return torch.zeros((), dtype=torch.float64)
        exact = value.double()
        whole = _root_mean_square(exact.flatten(), -1)
        rows = _root_mean_square(exact, -1) if exact.dim() else whole
        magnitude = torch.maximum(rows, whole)
        if self.own:
            magnitude = torch.maximum(magnitude, exact.abs())
        return self.relative(value.dtype) * magnitude

    def with_condition(self, condition: float) -> Tolerance:
        return replace(self, condition=condition)

    def relative(self, dtype: torch.dtype) -> float:
        """The bound of a floating-point value of ``dtype`` and magnitude 1."""
        if self.numerics is Numerics.BITWISE:
            return 0.0
        stored = roundoff(dtype)
        relative = math.sqrt(self.terms) * roundoff(torch.float32) + self.scores * stored
        relative = CONFIDENCE * (self.condition * relative + math.sqrt(self.roundings) * stored)
        return relative + (self.budget if self.numerics is Numerics.APPROXIMATE else 0.0)


@dataclass(frozen=True)
class Deviation:
    """Where two values differ most for what is allowed there. ``share`` of the bound: 1 is all."""

    error: float
    bound: float
    share: float

    @property
    def allowed(self) -> bool:
        return self.share <= 1.0


NONE = Deviation(0.0, 0.0, 0.0)
ANOTHER_KIND = Deviation(math.inf, 0.0, math.inf)


def tolerance_of(
    numerics: Numerics, halves: tuple[Collection[Node], Collection[Node]], budget: float = 0.0
) -> Tolerance:
    """What the longer half of a region, removed or added, adds up and stores."""
    if numerics is Numerics.BITWISE:
        return Tolerance(numerics)
    return Tolerance(
        numerics,
        max(map(reduction_terms, halves)),
        max(1, *map(stored_values, halves)),
        scores=int(any(aten_facts(m.op_name(node)).softmax for half in halves for node in half)),
        budget=budget,
    )


def tolerance_of_call(node: Node) -> Tolerance:
    """Of one node alone: what sums nothing up must be equal. An output of several is judged as
    what computes it."""
    if m.is_op(node, "getitem"):
        node = m.operand(node, 0)
    terms = reduction_terms([node])
    if not terms:
        return Tolerance(Numerics.BITWISE)
    return Tolerance(Numerics.REORDERED, terms, max(1, stored_values([node])))


def condition_of(node: Node, values: Mapping[Node, Any]) -> float:
    """How much an attention amplifies the errors of its scores; 1 for any other node."""
    operands = _scores(node)
    if not all(isinstance(each, Node) for each in operands) or not operands:
        return 1.0
    longest = 1.0
    for operand in operands:
        longest *= float(values[operand].float().nan_to_num(nan=0.0).norm(dim=-1).max())
    scale = given(node).get("scale")
    if scale is None:  # as torch's own attention has it
        scale = _size(operands[0], -1) ** -0.5
    return 1.0 + longest * abs(float(scale))


def compare(before: object, after: object, tolerance: Tolerance) -> Deviation:
    """How far ``after`` is from ``before``. Shapes and dtypes must agree, NaN equals NaN."""
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return NONE if type(before) is type(after) and before == after else ANOTHER_KIND
    if before.shape != after.shape or before.dtype != after.dtype:
        return ANOTHER_KIND
    if not before.numel() or torch.equal(before, after):
        return NONE
    was, now = before.double(), after.double()
    same = (was == now) | (was.isnan() & now.isnan())
    difference = (was - now).abs().masked_fill(same, 0.0).nan_to_num(nan=math.inf, posinf=math.inf)
    bound = tolerance.bound(before).nan_to_num(nan=0.0, posinf=math.inf).expand_as(difference)
    shares = (difference / bound).masked_fill(same, 0.0).nan_to_num(nan=math.inf, posinf=math.inf)
    place = int(shares.flatten().argmax())
    error, allowed, share = (
        float(tensor.flatten()[place]) for tensor in (difference, bound, shares)
    )
    return Deviation(error, allowed, share)


def roundoff(dtype: torch.dtype) -> float:
    """Unit roundoff: half the distance from 1 to the next number."""
    return torch.finfo(dtype).eps / 2


def reduction_terms(nodes: Iterable[Node]) -> int:
    """How many summands the reductions of ``nodes`` have, each reduction counted once."""
    return sum(map(_terms, nodes))


def stored_values(nodes: Iterable[Node]) -> int:
    """How many floating-point values ``nodes`` compute and round; views of others are none.

    An attention rounds three: the scaled query, the weights after the softmax, and the result.
    """
    return sum(
        3 if _is_attention(node) else 1
        for node in nodes
        if isinstance(value := node.meta.get("val"), Tensor)
        and value.is_floating_point()
        and m.op_name(node) not in VIEWS
    )


def _is_attention(node: Node) -> bool:
    op = semantic_op(node.target)
    return KEYS in op.facts.summed if op is not None else aten_facts(m.op_name(node)).scores


def _scores(node: Node) -> tuple[Any, ...]:
    """The queries and keys of an attention, where both are operands; nothing of any other node."""
    op = semantic_op(node.target)
    if op is None:
        return node.args[:2] if aten_facts(m.op_name(node)).scores else ()
    arguments = given(node)
    return tuple(arguments[name] for name in op.facts.scores or ())


def _terms(node: Node) -> int:
    op = semantic_op(node.target)
    if op is not None:
        arguments = given(node)
        return sum(
            LONGEST if (name, axis) == KEYS else _size(arguments[name], axis)
            for name, axis in op.facts.summed
        )
    facts = aten_facts(m.op_name(node))
    if facts.summed is None:
        return 0
    operand, axis = facts.summed
    return _size(node.args[operand], axis) + (LONGEST if facts.scores else 0)


def _size(node: object, axis: int) -> int:
    if not isinstance(node, Node) or not isinstance(node.meta.get("val"), Tensor):
        return 0
    shape = node.meta["val"].shape
    if not len(shape):
        return 0
    size = shape[axis] if len(shape) >= -axis else shape[-1]
    return size if isinstance(size, int) else LONGEST


def _root_mean_square(value: Tensor, axis: int) -> Tensor:
    finite = value.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return finite.square().mean(axis, keepdim=value.dim() > 0).sqrt()
