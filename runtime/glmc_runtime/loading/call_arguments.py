"""Arguments of a plan before there is any memory: kinds, dtypes and shapes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Union

from glmc_runtime.errors import PlanError
from glmc_runtime.format.extent import Extent, Shape
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.plan import (
    HOST_SUFFIX,
    Argument,
    BufferArgument,
    CacheArgument,
    ExtentArgument,
    InputArgument,
    PhasePlan,
    ValueArgument,
    WeightArgument,
)

MOST_DIMENSIONS = 8
BLOCKS = Extent(((("blocks of the cache",), 1),))
"""How many there are is chosen when the artifact is loaded."""

Storage = tuple[str, Union[str, int]]
"""Which memory: a kind of it and a number or name."""


@dataclass(frozen=True)
class TensorFacts:
    """What is known of a tensor before there is one, wherever it is. ``room`` is its ``size`` if
    all of its bucket were real. ``whole`` says that it has the shape that it was declared with, so
    that rows are rows."""

    kind: str
    dtype: str
    shape: Shape
    on_host: bool
    size: Extent
    room: Extent
    whole: bool


@dataclass(frozen=True)
class ValueFacts:
    """A constant, or a size that follows the step; ``kind`` tells True from 1."""

    value: object
    kind: str


Facts = Union[TensorFacts, ValueFacts]


class ArgumentFacts:
    """Describes the arguments of one plan, in sizes that are normal (:meth:`Phase.normal`)."""

    def __init__(self, plan: PhasePlan, manifest: Manifest) -> None:
        self._manifest = manifest
        self._buffers = {buffer.id: buffer for buffer in plan.buffers}
        self._inputs = {spec.name: spec for spec in plan.inputs}
        self.normal = plan.phase.normal
        self.at_most = plan.phase.order.at_most
        self._known: dict[TensorFacts, TensorFacts] = {}
        self.of = cache(self._of)
        self.size = cache(self._size)

    def elements(self, buffer: int) -> Extent:
        """The number of elements of a buffer."""
        return self.size(self._shape(self._buffers[buffer].shape, False))

    def value(self, argument: ValueArgument) -> ValueFacts:
        value = argument.value
        if isinstance(value, list) and all(type(item) is int for item in value):
            return ValueFacts(tuple(value), "list")
        if value is not None and not isinstance(value, (bool, int, float, str)):
            raise PlanError(
                "a constant is of no kind that a plan has",
                expected="None, a bool, a number, a string or a list of integers",
                found=type(value).__name__,
            )
        return ValueFacts(value, type(value).__name__)

    def _size(self, shape: Shape) -> Extent:
        total = Extent(constant=1)
        for extent in shape:
            total = total.times(extent)
        if not total.linear:
            raise PlanError("a size would be quadratic in the step", found=str(total))
        return total

    def _shape(self, shape: Shape, real: bool) -> Shape:
        return tuple(self.normal(extent, real) for extent in shape)

    def _of(self, argument: Argument) -> tuple[Facts, Storage | None]:
        """The facts of an argument that names what is there, and where it is; raises
        :class:`PlanError` for a view that is larger than what it is a view of. Equal facts of
        tensors are one object."""
        if isinstance(argument, ExtentArgument):
            extent = self.normal(argument.extent, argument.real)
            return ValueFacts(extent, "extent"), None
        if isinstance(argument, WeightArgument):
            entry = self._manifest.weights[argument.weight]
            sizes = entry.shape
            if argument.rows is not None:
                sizes = (argument.rows[1] - argument.rows[0], *sizes[1:])
            shape = _fixed(sizes)
            return self._tensor(("weight", argument.weight), entry.dtype, shape, False)
        if isinstance(argument, CacheArgument):
            return self._cache(argument)
        if isinstance(argument, BufferArgument):
            buffer = self._buffers[argument.buffer]
            own = buffer.shape
            shape = self._view(own, argument.shape, argument.real)
            room = self.size(self._shape(argument.shape or own, False))
            whole = argument.shape in (None, own)
            place: Storage = ("buffer", argument.buffer)
            return self._tensor(place, buffer.dtype, shape, False, room, whole)
        if isinstance(argument, InputArgument):
            spec = self._inputs[argument.input]
            shape = self._view(spec.shape, argument.shape, argument.real)
            on_host = spec.name.endswith(HOST_SUFFIX)
            room = self.size(self._shape(argument.shape or spec.shape, False))
            whole = shape == self._shape(spec.shape, argument.real)
            return self._tensor(("input", spec.name), spec.dtype, shape, on_host, room, whole)
        raise PlanError(f"a {type(argument).__name__} is in no artifact")

    def _cache(self, argument: CacheArgument) -> tuple[Facts, Storage | None]:
        spec = self._manifest.cache
        row = spec.tensor(argument.cache, argument.layer)
        if row is None:
            raise PlanError(f"there is no cache '{argument.cache}' of layer {argument.layer}")
        storage = ("cache", f"{argument.cache} {argument.layer}")
        return self._tensor(storage, row.dtype, (BLOCKS, *_fixed(spec.block_shape(row))), False)

    def _view(self, own: Shape, shape: Shape | None, real: bool) -> Shape:
        """The shape of a view, which is no larger than what it is a view of. With the real counts,
        which are at most those of the bucket, it is no larger either."""
        if shape is None:
            return self._shape(own, real)
        if len(shape) > MOST_DIMENSIONS:
            raise PlanError(
                "a view has too many dimensions",
                expected=f"at most {MOST_DIMENSIONS}",
                found=str(len(shape)),
            )
        needed, there = (self.size(self._shape(dimensions, False)) for dimensions in (shape, own))
        if not self.at_most(needed, there):
            raise PlanError(
                "a view is larger than what it is a view of",
                expected=f"at most {there} elements",
                found=f"{needed}",
            )
        return self._shape(shape, real)

    def _tensor(
        self,
        storage: Storage,
        dtype: str,
        shape: Shape,
        on_host: bool,
        room: Extent | None = None,
        whole: bool = True,
    ) -> tuple[TensorFacts, Storage]:
        if any(extent == Extent() for extent in shape):
            raise PlanError("a tensor has a dimension of size 0", found=shown(shape))
        size = self.size(shape)
        room = size if room is None else room
        facts = TensorFacts(storage[0], dtype, shape, on_host, size, room, whole)
        return self._known.setdefault(facts, facts), storage


def _fixed(sizes: tuple[int, ...]) -> Shape:
    return tuple(Extent(constant=size) for size in sizes)


def shown(shape: Shape) -> str:
    """A shape, for an error."""
    return f"[{', '.join(map(str, shape))}]"
