"""Shape symbols of a call: the sizes of a step that it depends on, read from the plan alone.

The binder keeps one binding of a call for each value of these symbols, and a captured segment may
hold no call that depends on the real ones, which change from step to step.
"""

from __future__ import annotations

from collections.abc import Mapping

from glmc_runtime.format.extent import Shape
from glmc_runtime.format.phases import real_name
from glmc_runtime.format.plan import BufferArgument, Call, ExtentArgument, InputArgument, PhasePlan


class Symbols(dict[str, int]):
    """The values that size a step, by symbol: those of the ``bucket`` under the symbol's own name,
    the ``real`` ones under :func:`real_name` of it."""

    def __init__(self, bucket: Mapping[str, int], real: Mapping[str, int]) -> None:
        super().__init__(bucket)
        self.real = real
        self.update({real_name(name): value for name, value in real.items()})

    @property
    def bucket(self) -> Mapping[str, int]:
        return self


class Dependence:
    """Answers for the calls of one plan, whose arguments name declared buffers and inputs."""

    def __init__(self, plan: PhasePlan) -> None:
        self._buffers = {buffer.id: buffer for buffer in plan.buffers}
        self._inputs = {spec.name: spec.shape for spec in plan.inputs}
        self._real = frozenset(map(real_name, plan.phase.symbols))

    def symbols(self, call: Call) -> tuple[str, ...]:
        """Names in :class:`Symbols` that the arguments of a call depend on, sorted."""
        used: set[str] = set()
        for argument in call.arguments.values():
            shape: Shape
            if isinstance(argument, BufferArgument):
                buffer = self._buffers[argument.buffer]
                used.update(buffer.offset.symbols)
                shape = buffer.shape if argument.shape is None else argument.shape
            elif isinstance(argument, InputArgument):
                declared = self._inputs[argument.input]
                shape = declared if argument.shape is None else argument.shape
            elif isinstance(argument, ExtentArgument):
                shape = (argument.extent,)
            else:
                continue
            names = [name for extent in shape for name in extent.symbols]
            used.update(map(real_name, names) if argument.real else names)
        return tuple(sorted(used))

    def sees_real_counts(self, call: Call) -> bool:
        """Whether a call depends on how much of its bucket is real."""
        return not self._real.isdisjoint(self.symbols(call))
