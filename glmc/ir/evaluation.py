"""Evaluation: what a rewrite replaces and what it puts there, run on the same random values.

Whatever a matcher looked past, a difference shows here. The values are random, and then made to go
wrong: equal, all zero, far apart, next to nothing, below zero, masks that hide. Sizes that are
symbols get several values. A region with an operand above ``LARGEST`` bytes is run as a small
instance: its large sizes are divided by one number, in its shapes and in its constants, and each
value must have the shape that follows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.fx import Node

from glmc.ir.instances import FULL, SMALL, Instance, sizes_of, smaller
from glmc.ir.match import is_op, op_name
from glmc.ir.ops import Numerics
from glmc.ir.ops.collectives import is_collective, over_ranks
from glmc.ir.program import Program
from glmc.ir.recipe import Concatenate, Constant, Recipe, Stack
from glmc.ir.rewrite import Attempt
from glmc.ir.signature import signature, value_key_of
from glmc.ir.tolerance import Tolerance, compare, condition_of, tolerance_of

LARGEST = 64 * 2**20
_QUICK = 2**20
KERNEL_ERRORS = (RuntimeError, LookupError, TypeError, ValueError, NotImplementedError)
# Which kernel of torch computes a product depends on the layout of its operands.
_PRODUCTS = (
    *("aten.mm", "aten.bmm", "aten.addmm", "aten.matmul", "aten.linear", "aten.einsum"),
    *("glmc.linear", "glmc.linear_swiglu", "glmc.shared_expert", "glmc.moe_gate"),
)


@dataclass(frozen=True)
class Outcome:
    """``instance`` is what was run, ``full`` or ``small``; no ``difference`` is ''."""

    instance: str
    difference: str = ""


@dataclass(frozen=True)
class Rewritten:
    """A rewrite that was tried. ``pairs`` are (old, new); ``leaves`` are what the old nodes begin
    with, in the order in which they are met; ``old`` and ``new`` are computed, in order."""

    pairs: tuple[tuple[Node, Node], ...]
    leaves: tuple[Node, ...]
    old: tuple[Node, ...]
    new: tuple[Node, ...]
    made: tuple[Node, ...]  # placeholders of merged weights

    @classmethod
    def of(cls, tried: Attempt) -> Rewritten:
        pairs = tuple(tried.replaced.items())
        sources = tried.sources
        old, leaves = cone([before for before, _ in pairs], sources)
        made = tuple(node for node in tried.inserted if node.op == "placeholder")
        wanted = [after for _, after in pairs]
        new, others = cone(wanted, {*sources, *made})
        leaves.update(dict.fromkeys(node for node in others if node not in made))
        return cls(pairs, tuple(leaves), tuple(old), tuple(new), made)

    def kind(self, program: Program) -> Hashable:
        """Equal for two rewrites that do the same to operands of the same dtypes and shapes."""
        operands = (*self.leaves, *self.made)
        roots = [node for pair in self.pairs for node in pair]
        place = {_recipe(program, leaf): at for at, leaf in enumerate(self.leaves)}
        merged = (_parts(program.weights[node.meta["weight"]].recipe, place) for node in self.made)
        fixed = (_fixed(program, leaf) for leaf in self.leaves)
        return (
            *(signature(root, operands) for root in roots),
            *(value_key_of(node) for node in self.made),
            *merged,
            *fixed,
        )


def evaluate(
    rewritten: Rewritten, program: Program, numerics: Numerics, budget: float = 0.0
) -> Outcome:
    """Run both halves; the first difference that the numerics class does not allow."""
    exact = numerics is Numerics.BITWISE
    if exact and any(is_op(node, *_PRODUCTS) for node in (*rewritten.old, *rewritten.new)):
        numerics = Numerics.REORDERED
    tolerance = tolerance_of(numerics, (rewritten.old, rewritten.new), budget)
    every = sizes_of(program, (*rewritten.leaves, *rewritten.old, *rewritten.new))
    wide = [instance.bytes(leaf) for instance in every[:1] for leaf in rewritten.leaves]
    if max(wide, default=0) > LARGEST:
        return _first_that_runs(rewritten, program, tolerance, [*_small(rewritten, every, LARGEST)])
    if sum(wide) <= _QUICK:
        return _first_that_runs(rewritten, program, tolerance, [every])
    # Ordinary values at the region's own sizes, all the others at sizes that take no time.
    plain = tuple(replace(instance, hostile=False) for instance in every[:2])
    outcome = _first_that_runs(rewritten, program, tolerance, [plain])
    if outcome.difference:
        return outcome
    small = [*_small(rewritten, every, _QUICK), every]
    return replace(_first_that_runs(rewritten, program, tolerance, small), instance=FULL)


def _first_that_runs(
    rewritten: Rewritten,
    program: Program,
    tolerance: Tolerance,
    scales: Sequence[tuple[Instance, ...]],
) -> Outcome:
    """The outcome of the first of ``scales`` at whose first sizes the region itself runs; where it
    does not run at others, these are no sizes of the program."""
    reason = "it needs too much memory"
    for scale in scales:
        for number, instance in enumerate(scale):
            deviation = _run(rewritten, program, instance, tolerance)
            if isinstance(deviation, _Unusable):
                reason = deviation.reason if scale is scales[0] and number == 0 else reason
                if number == 0:
                    break
            elif deviation:
                return Outcome(instance.name, deviation)
        else:
            return Outcome(scale[0].name)
    return Outcome("none", f"the region can't be evaluated: {reason}")


@dataclass(frozen=True)
class _Unusable:
    """The region itself does not run at these sizes."""

    reason: str


def _run(
    rewritten: Rewritten, program: Program, instance: Instance, tolerance: Tolerance
) -> str | _Unusable:
    for values in instance.all_values(program, rewritten.leaves):
        before = values.nodes
        try:
            for node in rewritten.old:
                compute(node, before, instance)
        except KERNEL_ERRORS as error:
            return _Unusable(f"{op_name(node)}: {first_line(error)}")
        for node in rewritten.old if instance.name == SMALL else ():
            if not _as_expected(before[node], node, instance):
                return _Unusable(f"{op_name(node)}: the sizes of a small instance don't fit")
        own: dict[Node, Any] = dict(before)
        condition = max([1.0, *(condition_of(node, before) for node in rewritten.old)])
        try:
            for node in rewritten.made:
                recipe = program.weights[node.meta["weight"]].recipe
                known = {_recipe(program, leaf): before[leaf] for leaf in rewritten.leaves}
                own[node] = _merged(recipe, known, node, instance)
            for node in rewritten.new:
                compute(node, own, instance)
                condition = max(condition, condition_of(node, own))
        except KERNEL_ERRORS as error:
            if instance.name == SMALL:  # the region's own sizes decide
                return _Unusable(f"{op_name(node)}: {first_line(error)}")
            return f"{op_name(node)} does not take what the block takes: {first_line(error)}"
        # Sizes that are sums, such as rows of merged weights, must have shrunk as their parts did.
        for node in (*rewritten.made, *rewritten.new) if instance.name == SMALL else ():
            if not _as_expected(own[node], node, instance):
                return _Unusable(f"{op_name(node)}: the sizes of a small instance don't fit")
        for old, new in rewritten.pairs:
            allowed = tolerance.with_condition(condition)
            for was, now in zip_longest(_results(before[old]), _results(own[new])):
                deviation = compare(was, now, allowed)
                if not deviation.allowed:
                    return (
                        f"the block and {op_of(new)} differ by {deviation.error:.3g} where "
                        f"{deviation.bound:.3g} is allowed, on {values.name} values"
                    )
    return ""


def _results(value: Any) -> Sequence[Any]:
    """One value, or each of several."""
    return value if isinstance(value, (list, tuple)) else (value,)


def op_of(node: Node) -> str:
    if is_op(node, "getitem"):
        return op_name(node.args[0])
    return op_name(node) or node.name


def compute(node: Node, values: dict[Node, Any], instance: Instance) -> None:
    if node in values:
        return
    value = node.meta.get("val")
    if isinstance(value, SymInt):
        values[node] = instance.size(value)
        return
    arguments, keywords = instance.constants(node)
    arguments, keywords = torch.fx.node.map_arg((arguments, keywords), lambda each: values[each])
    if keywords.get("device") is not None:
        keywords = {**keywords, "device": torch.device("cpu")}
    target: Callable[..., Any] = node.target  # type: ignore[assignment]
    with torch.no_grad():
        if is_op(node, "aten.histc") and not arguments[0].is_floating_point():
            # Counts of whole numbers, as a device has them; the CPU's kernel takes no such.
            counts = target(arguments[0].double(), *arguments[1:], **keywords)
            values[node] = counts.to(arguments[0].dtype)
        elif is_collective(op_name(node).removeprefix("glmc.")):
            values[node] = _on_equal_ranks(op_name(node).removeprefix("glmc."), arguments)
        else:
            values[node] = target(*arguments, **keywords)


def _on_equal_ranks(name: str, arguments: Sequence[Any]) -> Any:
    """A collective of two ranks that have the same operands."""
    parts, *others = ([each] * 2 if isinstance(each, Tensor) else each for each in arguments)
    return over_ranks(name, parts, others)[0]


def _as_expected(value: Any, node: Node, instance: Instance) -> bool:
    fake = node.meta.get("val")
    if not isinstance(value, Tensor) or not isinstance(fake, Tensor):
        return True
    return tuple(value.shape) == instance.shape(fake)


def _small(
    rewritten: Rewritten, every: tuple[Instance, ...], limit: int
) -> Iterator[tuple[Instance, ...]]:
    """Instances with no operand above ``limit`` bytes; then the region's own sizes, if memory
    allows."""
    yield from smaller(every, rewritten.leaves, limit)
    if limit == LARGEST and 4 * sum(map(every[0].bytes, rewritten.leaves)) < _free_memory():
        yield (replace(every[0], hostile=False),)


def _free_memory() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cone(roots: Sequence[Node], stops: set[Node]) -> tuple[list[Node], dict[Node, None]]:
    """(calls from ``stops`` and placeholders to the roots, in order; where that ended)."""
    order: dict[Node, None] = {}
    leaves: dict[Node, None] = {}
    stack = list(reversed(roots))
    while stack:
        node = stack[-1]
        if node in order or node in leaves:
            stack.pop()
        elif node.op != "call_function" or node in stops:
            leaves[node] = None
            stack.pop()
        elif isinstance(node.meta.get("val"), SymInt):
            order[node] = None
            stack.pop()
        elif missing := [
            each for each in node.all_input_nodes if each not in order and each not in leaves
        ]:
            stack.extend(reversed(missing))
        else:
            order[node] = None
            stack.pop()
    return list(order), leaves


def _recipe(program: Program, node: Node) -> Recipe | None:
    weight = program.weight_of(node)
    return None if weight is None else weight.recipe


def _fixed(program: Program, node: Node) -> Hashable:
    """The numbers of a constant, which are evaluated as they are."""
    recipe = _recipe(program, node)
    return recipe if isinstance(recipe, Constant) else None


def _parts(recipe: Recipe, place: Mapping[Recipe | None, int]) -> Hashable:
    if recipe in place:
        return place[recipe]
    if isinstance(recipe, (Concatenate, Stack)):
        return (type(recipe).__name__, *(_parts(part, place) for part in recipe.parts))
    return recipe


def _merged(
    recipe: Recipe, known: Mapping[Recipe | None, Tensor], node: Node, instance: Instance
) -> Tensor:
    """The value of a merged weight from the values of its parts."""
    if recipe in known:
        return known[recipe]
    if isinstance(recipe, (Concatenate, Stack)):
        join = torch.cat if isinstance(recipe, Concatenate) else torch.stack
        return join([_merged(part, known, node, instance) for part in recipe.parts])
    if isinstance(recipe, Constant):
        length = instance.mapped(len(recipe.values))
        return torch.tensor(recipe.values[:length], dtype=node.meta["val"].dtype)
    raise ValueError("the parts of a merged weight must be read by what it replaces")


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
