"""Facts of an op: what passes, bounds, cost models and sharding read instead of its name.

An op states them where it is defined, all of them; tests/ir/ops/ shows each by running the op.
What depends on an op's arguments is a function whose parameters have their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, Literal

from glmc.ir.layout import Layout, Section

KEYS = ("", 0)
"""In ``summed``: the keys that a query attends to, however many an input has."""


@dataclass(frozen=True)
class Cut:
    """A dimension that is dealt to ranks; see :mod:`glmc.ir.layout`.

    ``sections``: a function of the op's arguments that gives them, or a number: the dimension is so
    many times the one layout that all such cuts of a sharding share, whichever it is. So a merged
    gate and up projection has two of what its activation has one of. A size of 1 that broadcasts
    stays whole.
    """

    axis: int
    sections: int | Callable[..., Sequence[Section]] = 1

    def layout(self, arguments: Mapping[str, Any], shared: Layout) -> Layout:
        """Of this dimension, where ``shared`` is the layout that the cuts by number share."""
        if callable(self.sections):
            return replace(shared, sections=tuple(by_name(self.sections, arguments)))
        return replace(shared, sections=shared.sections * self.sections)


@dataclass(frozen=True)
class Sharding:
    """One way to compute an op on several ranks.

    ``operands`` are cut, or ``first``: any summands that add up to the whole over the ranks, such
    as the first rank's own and zeros on the others; all others are whole on each rank. ``results``
    are cut likewise, or ``sum``: added up over the ranks. ``divided`` are integer arguments that
    count what is cut, with the sections of what they count. ``index`` is an operand of indices into
    the cut dimension, and ``op`` the op that a rank computes then in place of this one: it has one
    operand more, ``first``, the first entry of that dimension that the rank has.
    """

    name: Literal["column", "row", "heads", "experts", "vocabulary"]
    operands: Mapping[str, Cut | Literal["first"]]
    results: tuple[Cut | Literal["sum"], ...]
    divided: Mapping[str, Callable[..., Sequence[Section]]] = field(default_factory=dict)
    index: str | None = None
    op: str | None = None


@dataclass(frozen=True)
class OpFacts:
    """The facts of one op; operands go by their names in its schema.

    ``tokens``: the operands that hold the tokens in their leading dimensions, for an op that treats
    each token alone; its other tensors are weights. None: the op may mix tokens.
    ``summed``: operand and axis of each dimension that is summed over, or ``KEYS``.
    ``flops``: multiplications and additions of all matrix products, a function of shapes and
    numbers; what is done element by element costs memory and counts 0.
    ``accessed``: how many elements are read of an operand or written of a result ("out", "out.1"),
    where that is not all; functions of shapes and numbers, upper bounds where values decide.
    ``shardings``: the ways to compute it on several ranks; it can always be replicated.
    ``strided``: operands that kernels take with any strides.
    ``float32``: operands that are in float32 beside others of another dtype; ``any_dtype``: those
    that are cast in the op, so that their dtypes are free.
    ``scores``: the two operands whose products a softmax weighs, of an attention.
    ``chosen``: for an operand of indices, [tokens, different ones], the operands of whose first
    dimension they choose entries.
    """

    tokens: tuple[str, ...] | None
    summed: tuple[tuple[str, int], ...]
    flops: Callable[..., int]
    accessed: Mapping[str, Callable[..., int]]
    shardings: tuple[Sharding, ...]
    strided: tuple[str, ...]
    float32: tuple[str, ...] = ()
    any_dtype: tuple[str, ...] = ()
    scores: tuple[str, str] | None = None
    chosen: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def operands(self) -> set[str]:
        """All operands that the facts name."""
        named = {*(self.tokens or ()), *self.strided, *self.float32, *self.any_dtype}
        named |= {name for name, _ in self.summed if name} | {*(self.scores or ())}
        named |= {name for index, names in self.chosen.items() for name in (index, *names)}
        named |= {name for name in self.accessed if not name.startswith("out")}
        for function in (self.flops, *self.accessed.values()):
            named |= {*signature(function).parameters}
        for sharding in self.shardings:
            named |= {*sharding.operands, *sharding.divided}
            named |= {sharding.index} if sharding.index else set()
        return named


def by_name(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """``function`` of those of an op's ``arguments`` that its parameters name."""
    return function(**{name: arguments[name] for name in signature(function).parameters})


def no_flops() -> int:
    """Of an op without a matrix product."""
    return 0


def query_heads(queries: int, keys: int, size: int = 1) -> Section:
    """``queries`` heads of ``size`` entries that read ``keys`` KV heads, dealt with what they
    read."""
    group = queries // keys
    return Section(keys, group * size, parts=group)


def key_heads(keys: int, size: int = 1) -> Section:
    """``keys`` heads of ``size`` entries that are read by several query heads each."""
    return Section(keys, size, repeated=True)
