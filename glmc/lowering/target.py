"""A target: a table from semantic op to kernel calls, and limits.

A lowering rule sees one node as an :class:`Op` and emits calls through an :class:`Emitter`. It
knows shapes, dtypes and constants; it never sees the model or the graph. In-place writes are
asked for with :meth:`Emitter.mutable`: the emitter hands out the operand's own buffer when nobody
reads it later and a copy otherwise, so a rule can't clobber a live value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from glmc.errors import LoweringError
from glmc.ir.assumptions import Assumptions, assumptions_of
from glmc.ir.recipe import Weight
from glmc_runtime.format.extent import Extent, Shape
from glmc_runtime.format.plan import Argument


@dataclass(frozen=True)
class Value:
    """A tensor while lowering. ``argument`` names its storage; views share it."""

    name: str
    shape: Shape
    dtype: torch.dtype
    argument: Argument

    def dim(self, index: int) -> int:
        """A dimension that must be a plain number."""
        extent = self.shape[index]
        if extent.moves:
            raise LoweringError(
                f"dimension {index} of {self.name} must be static",
                expected="a number",
                found=str(extent),
            )
        return extent.constant


@dataclass(frozen=True)
class LoweringOptions:
    """What the user chose: dtype of the activations, context limit, block size, ABI profile,
    what bits may not depend on (``deterministic``, see :class:`~glmc.config.CompileOptions`), and
    the number of ranks."""

    dtype: torch.dtype
    max_context: int
    block_size: int
    max_sequences: int
    max_tokens: int
    abi_profile: str | None = None
    deterministic: str | None = None
    ranks: int = 1

    @property
    def blocks_per_sequence(self) -> int:
        return -(-self.max_context // self.block_size)


@dataclass(frozen=True)
class Op:
    """One node to be lowered: its op's name and its arguments by the schema's names."""

    name: str
    node: str
    module: str
    layer: int | None
    arguments: Mapping[str, Value | float | int | bool | str | list[int] | None]
    phase: str

    @property
    def assumes(self) -> Assumptions:
        """What may be assumed of the program that it is in."""
        return assumptions_of(self.phase)

    def tensor(self, name: str) -> Value:
        value = self.arguments[name]
        if not isinstance(value, Value):
            raise LoweringError(f"{self.name} needs a tensor '{name}'", place=self.node)
        return value

    def optional_tensor(self, name: str) -> Value | None:
        value = self.arguments[name]
        return value if isinstance(value, Value) else None

    def number(self, name: str) -> float:
        value = self.arguments[name]
        if not isinstance(value, (int, float)):
            raise LoweringError(f"{self.name} needs a number '{name}'", place=self.node)
        return float(value)

    def integer(self, name: str) -> int:
        return int(self.number(name))

    def flag(self, name: str) -> bool:
        return bool(self.arguments[name])


class Emitter(Protocol):
    """What a rule may do. ``result(i)`` is output i of the node."""

    options: LoweringOptions
    notes: dict[str, Value]
    """What one rule leaves for a later one, by a key of the backend's own; such a value lives
    until the last call that uses it. A key of what was made of other values has their stamps."""

    def stamp(self, value: Value) -> str:
        """A key for what ``value`` holds now, which changes when its memory is written."""

    def remark(self, text: str) -> None:
        """Say in the report how this node was lowered, when that is not the usual way."""

    def temporary(self, name: str, shape: Shape, dtype: torch.dtype) -> Value:
        """A scratch buffer; it lives from the first to the last call that uses it."""

    def result(self, index: int = 0) -> Value:
        """A new buffer for output ``index``, with the shape and dtype of the graph."""

    def bind(self, index: int, value: Value) -> None:
        """Output ``index`` is ``value``: an operand written in place, a cache, or what the target
        makes in a dtype of its own. Whoever reads that gets a cast, but for the operands that
        :attr:`Target.as_made` names."""

    def mutable(self, value: Value) -> Value:
        """``value`` itself when no later node reads it, else a copy made by ``aten.copy``.

        Asked for twice by one rule, the second is a copy; ask before the first call writes."""

    def weight(self, weight: Weight) -> Value:
        """A weight that the rule makes, such as a rope table; shared by name."""

    def recipe(self, value: Value) -> Weight:
        """The weight of a value; raises LoweringError when it is none."""

    def input(self, name: str) -> Value:
        """A step input that the graph does not carry, such as host-side lengths; dtype and shape
        are those of its row in :mod:`glmc_runtime.format.step_inputs`."""

    def call(
        self,
        function: str,
        *,
        writes: tuple[str, ...],
        host: bool = False,
        **arguments: Value | Argument | float | int | bool | str | list[int] | None,
    ) -> None:
        """Append a kernel call. A Value is passed as its storage with the value's own shape."""


class Unsupported(Exception):  # noqa: N818 - no error: ATen computes the op
    """Raised by a rule for a node that its kernels can't take, such as one of another dtype. In a
    traced program ATen computes the node then; in an artifact's there is nothing else."""


Rule = Callable[[Op, Emitter], None]


@dataclass(frozen=True)
class Target:
    """A backend: its rules, cache layout and checks.

    ``check`` sees the options and the model's shape before anything is lowered and raises
    LoweringError for what the target can't do. ``greedy`` is the kernel that ends each phase with
    the greedy token of each row of logits, where the target has one. ``as_made``: (op, operand)
    whose rule takes a value of another rule in whatever dtype that made it. ``ordered``: by the
    promises of ``--deterministic`` that the target can keep, the rules in place of all others.
    ``column_multiple``: of columns that are dealt to ranks each has a multiple of so many, which
    kernels may need.
    """

    name: str
    rules: Mapping[str, Rule]
    cache_layout: str
    dtypes: tuple[torch.dtype, ...]
    profiles: tuple[str, ...] = ()
    check: Callable[[LoweringOptions, object], None] = field(default=lambda options, model: None)
    greedy: str | None = None
    as_made: frozenset[tuple[str, str]] = frozenset()
    ordered: Mapping[str, Mapping[str, Rule]] = field(default_factory=dict)
    column_multiple: int = 1

    def promising(self, deterministic: str | None) -> Target:
        """The target with the rules that keep a promise; raises LoweringError where it has none."""
        if deterministic is None:
            return self
        if deterministic not in self.ordered:
            raise LoweringError(
                f"{self.name} has no kernels with such an order of sums",
                expected=" or ".join(self.ordered) or "no --deterministic",
                found=f"--target {self.name} --deterministic={deterministic}",
                remedy=f"{'choose another promise' if self.ordered else 'drop --deterministic'}, "
                "or --target cpu, which keeps all of them",
            )
        return replace(self, rules=self.ordered[deterministic])


TOKENS = Extent.of(tokens=1)
SEQUENCES = Extent.of(sequences=1)


def fixed(size: int) -> Extent:
    return Extent(constant=size)
