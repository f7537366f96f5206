"""Evaluation of what rebuilds the graph whole: attention over a paged cache, and its phases.

Every layer's attention is run before and after on the same random values: a few short sequences,
ragged, their blocks in no order, all tokens new and as second halves after a filled cache; what a
cache does not hold is NaN. Layers that are spelled alike are run once. There is no op by op to fall
back on here, so a difference is an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import SymInt, Tensor
from torch.fx import Node

from glmc.errors import InternalError, VerificationError
from glmc.ir import match as m
from glmc.ir.evaluation import KERNEL_ERRORS, LARGEST, compute, cone, first_line, op_of
from glmc.ir.instances import Instance, smaller
from glmc.ir.packed import Packed, around_attention, last_tokens, layouts
from glmc.ir.program import Program
from glmc.ir.recipe import Constant
from glmc.ir.signature import signature, value_key
from glmc.ir.threads import one_thread
from glmc.ir.tolerance import compare, condition_of, tolerance_of_call
from glmc.passes.base import PassResult
from glmc.patterns.per_token import place

# Three sequences of at most nine tokens, of which four fit a block.
_TOKEN_IDS = torch.zeros(3, 9, dtype=torch.int64)
_BLOCK = 4
_QUICK = 2**20  # bytes of a weight


@dataclass(frozen=True)
class Side:
    """``root`` with all that is computed between ``starts`` and it."""

    program: Program
    root: Node
    starts: tuple[Node, ...]

    @cached_property
    def _cone(self) -> tuple[list[Node], dict[Node, None]]:
        return cone([self.root], set(self.starts))

    @property
    def nodes(self) -> list[Node]:
        return self._cone[0]

    @property
    def leaves(self) -> list[Node]:
        """The starts left out."""
        return [leaf for leaf in self._cone[1] if leaf not in self.starts]

    def weights(self) -> dict[str, Node]:
        """By name."""
        return {leaf.meta["weight"]: leaf for leaf in self.leaves if "weight" in leaf.meta}

    def kind(self, names: Sequence[str]) -> Hashable:
        """Equal for layers that do the same to other weights and other caches; a step input counts
        by its name. ``names`` are those of the weights, in one order for both sides."""
        weights = self.weights()
        caches = sorted(
            (leaf for leaf in self.leaves if "cache" in leaf.meta),
            key=lambda leaf: leaf.meta["cache"].key,
        )
        known = [weights[name] for name in names if name in weights]
        recipes = [self.program.weights[each.meta["weight"]].recipe for each in known]
        return (
            signature(self.root, (*self.starts, *known, *caches)),
            tuple(name in weights for name in names),
            tuple(each if isinstance(each, Constant) else None for each in recipes),
            tuple(value_key(start.meta["val"]) for start in self.starts),
        )


@dataclass(frozen=True)
class Case:
    """``given`` are the starts and leaves of the new side, ``expected`` what its nodes must be."""

    name: str
    instance: Instance
    given: dict[Node, Any]
    expected: Mapping[Node, Any]


Cases = Callable[[Side, Side], Iterator[Case]]


@dataclass(frozen=True)
class Replaced:
    """What stands in ``old`` and what stands for it in ``new``; the starts of the two are the same
    values. ``cases`` makes values for both, and runs the old."""

    old: Side
    new: Side
    cases: Cases

    def kind(self) -> Hashable:
        names = list(dict.fromkeys((*self.old.weights(), *self.new.weights())))
        return (self.old.kind(names), self.new.kind(names))


def require_same(pass_name: str, every: Sequence[Replaced]) -> PassResult:
    """Run each kind once; raises VerificationError for the first that differs."""
    start = time.perf_counter()
    seen: dict[Hashable, str] = {}
    for phase in every:
        kind = phase.kind()
        if kind in seen:
            continue
        with one_thread(), torch.no_grad():
            for case in phase.cases(phase.old, phase.new):
                _require_case(pass_name, phase.new, case)
                seen[kind] = case.instance.name
    return PassResult(
        evaluations=list(seen.values()), evaluation_seconds=time.perf_counter() - start
    )


def _require_case(pass_name: str, new: Side, case: Case) -> None:
    own = dict(case.given)
    for node in new.nodes:
        try:
            compute(node, own, case.instance)
        except KERNEL_ERRORS as error:
            _refuse(pass_name, node, "takes what the block takes", first_line(error), case.name)
        if node not in case.expected:
            continue
        allowed = tolerance_of_call(node).with_condition(condition_of(node, own))
        deviation = compare(case.expected[node], own[node], allowed)
        if not deviation.allowed:
            expected = f"a difference of at most {deviation.bound:.3g}"
            _refuse(pass_name, node, expected, f"off by {deviation.error:.3g}", case.name)
        own[node] = case.expected[node]


def _refuse(pass_name: str, node: Node, expected: str, actual: str, values: str) -> NoReturn:
    raise VerificationError(
        f"{pass_name} changes what {node.meta['id']} computes",
        place=f"pass {pass_name}, {place(node)}, layer {node.meta['layer']}",
        expected=f"{op_of(node)}: {expected}",
        found=f"{actual}, on {values}",
    )


def paged(old: Side, new: Side) -> Iterator[Case]:
    """kv_cache: attention over rows of tokens, and over a paged cache in both layouts."""
    instance = _instance(old.program)
    for values in instance.all_values(old.program, (*old.starts, *old.leaves)):
        computed = dict(values.nodes)
        for node in old.nodes:
            compute(node, computed, instance)
        for packed in layouts(_TOKEN_IDS, _BLOCK):
            expected, caches = around_attention(old.root, new.root, computed, packed)
            starts = _given(old, new, computed, {**packed.inputs(), **caches})
            starts |= {start: starts[start].flatten(0, 1)[packed.rows()] for start in new.starts}
            name = f"{values.name} values, sequences from {packed.starts} to {packed.stops}"
            yield Case(name, _instance(new.program, packed), starts, expected)


def decoded(old: Side, new: Side) -> Iterator[Case]:
    """specialise: one new token of each sequence over a filled cache. The starts are the query and
    both caches."""
    packed = last_tokens(layouts(_TOKEN_IDS, _BLOCK))[0]
    generator = torch.Generator().manual_seed(0)
    for name, factor in (("random", 1.0), ("large", 64.0)):
        computed: dict[Node, Any] = {}
        for start in old.starts:
            fake = m.tensor(start)
            heads, size = int(fake.shape[1]), int(fake.shape[-1])
            shape = (*_TOKEN_IDS.shape, heads, size)
            value = (torch.randn(shape, generator=generator) * factor).to(fake.dtype)
            cached = fake.dim() == 4
            computed[start] = packed.cache(value, written=True) if cached else value[:, 0]
        instance = _instance(old.program, packed)
        values = _given(old, new, computed, packed.inputs())
        computed.update({leaf: packed.inputs()[leaf.meta["input"]] for leaf in old.leaves})
        for node in old.nodes:
            compute(node, computed, instance)
        yield Case(f"{name} values", instance, values, {new.root: computed[old.root]})


def last_rows(old: Side, new: Side) -> Iterator[Case]:
    """specialise: the head of all rows, and of the last row of each sequence."""
    packed = layouts(_TOKEN_IDS, _BLOCK)[0]
    leaves, inputs = (*old.starts, *old.leaves), packed.inputs()
    instance = _instance(old.program, packed)
    if max(map(instance.bytes, leaves)) > _QUICK:
        plain = (replace(instance, hostile=False),)  # sizes that nothing divides
        (instance,) = next(smaller((instance,), leaves, LARGEST), plain)
    for values in instance.all_values(old.program, leaves):
        computed = dict(values.nodes)
        for node in old.nodes:
            compute(node, computed, instance)
        rows = computed[old.root][inputs["last_rows"]]
        starts = _given(old, new, computed, inputs)
        yield Case(f"{values.name} values", instance, starts, {new.root: rows})


def _instance(program: Program, packed: Packed | None = None) -> Instance:
    """The sizes of the values: a stateless program's, or those of packed tokens."""
    if packed is None:
        token_ids = next(each for each in program.inputs() if each.meta["input"] == "token_ids")
        pairs = zip(m.shape(token_ids), _TOKEN_IDS.shape, strict=True)
        return Instance({size.node.expr: each for size, each in pairs if isinstance(size, SymInt)})
    if program.symbols is None:
        raise InternalError(f"a program of the phase {program.phase} has no symbols")
    inputs = packed.inputs()
    sequences, table = inputs["block_tables"].shape
    sizes = {
        "tokens": len(inputs["token_ids"]),
        "sequences": sequences,
        "sequences+1": sequences + 1,
        "blocks": sequences * table + 2,
        "table": table,
    }
    return Instance({symbol: sizes[name] for symbol, name in program.symbols.names.items()})


def _given(
    old: Side, new: Side, computed: Mapping[Node, Any], inputs: Mapping[str, Tensor]
) -> dict[Node, Any]:
    """Values of the new side: starts as they are, weights and inputs by name."""
    weights = {name: computed[leaf] for name, leaf in old.weights().items()}
    values = dict(zip(new.starts, (computed[start] for start in old.starts), strict=True))
    for leaf in new.leaves:
        name = leaf.meta.get("weight")
        if name is None:
            values[leaf] = inputs[leaf.meta["input"]]
        elif name in weights:
            values[leaf] = weights[name]
        else:
            raise InternalError(f"the weight {name} has no value beside {old.root.name}")
    return values
