"""Shape symbols of a call: the sizes of a step that it depends on, read from the plan alone.

The binder keeps one binding of a call for each value of these symbols, and a captured segment may
hold no call that depends on the real ones, which change from step to step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from glmc_runtime.format.extent import Extent, Shape
from glmc_runtime.format.plan import BufferArgument, Call, ExtentArgument, InputArgument, PhasePlan


class Symbols(NamedTuple):
    """The values that size a step: those of the bucket and the real ones."""

    tokens: int
    sequences: int
    real_tokens: int
    real_sequences: int

    @property
    def bucket(self) -> tuple[int, int]:
        return self.tokens, self.sequences

    @property
    def real(self) -> tuple[int, int]:
        return self.real_tokens, self.real_sequences


_FIRST_REAL = Symbols._fields.index("real_tokens")


class Dependence:
    """Answers for the calls of one plan, whose arguments name declared buffers and inputs."""

    def __init__(self, plan: PhasePlan) -> None:
        self._buffers = {buffer.id: buffer for buffer in plan.buffers}
        self._inputs = {spec.name: spec.shape for spec in plan.inputs}

    def symbols(self, call: Call) -> tuple[int, ...]:
        """Positions in :class:`Symbols` that the arguments of a call depend on, ascending."""
        used: set[int] = set()
        for argument in call.arguments.values():
            shape: Shape
            if isinstance(argument, BufferArgument):
                buffer = self._buffers[argument.buffer]
                used |= _positions([buffer.offset], real=False)
                shape = buffer.shape if argument.shape is None else argument.shape
            elif isinstance(argument, InputArgument):
                declared = self._inputs[argument.input]
                shape = declared if argument.shape is None else argument.shape
            elif isinstance(argument, ExtentArgument):
                shape = (argument.extent,)
            else:
                continue
            used |= _positions(shape, argument.real)
        return tuple(sorted(used))

    def sees_real_counts(self, call: Call) -> bool:
        """Whether a call depends on how much of its bucket is real."""
        return any(symbol >= _FIRST_REAL for symbol in self.symbols(call))


def _positions(extents: Iterable[Extent], real: bool) -> set[int]:
    first = _FIRST_REAL if real else 0
    positions = set()
    for extent in extents:
        if extent.tokens:
            positions.add(first)
        if extent.sequences:
            positions.add(first + 1)
    return positions
