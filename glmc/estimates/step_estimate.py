"""A step on a device: the floor and the predicted time of each of its lines."""

from __future__ import annotations

from dataclasses import dataclass

from glmc.estimates.collectives import Group
from glmc.estimates.costs import COLLECTIVE, Step
from glmc.estimates.device import Device
from glmc.estimates.few_layers import FewPlans
from glmc.estimates.lines import Launches, Line, step_launches, step_lines
from glmc.estimates.seconds import between_steps, call_floor, call_seconds, host_seconds


@dataclass(frozen=True)
class EstimatedLine:
    """A line of a step; ``floor`` and ``seconds`` are of one of its nodes. ``algorithm`` is that of
    a collective."""

    line: Line
    floor: float
    seconds: float
    algorithm: str | None = None

    @property
    def total(self) -> float:
        return self.line.count * self.seconds


@dataclass(frozen=True)
class EstimatedStep:
    """``host`` are seconds in which the host launches the step, beside the device; ``between``
    those before and after it, in which the device waits for the host."""

    step: Step
    lines: tuple[EstimatedLine, ...]
    launches: Launches
    host: float
    between: float

    @property
    def floor(self) -> float:
        return sum(each.line.count * each.floor for each in self.lines)

    @property
    def device(self) -> float:
        return sum(each.total for each in self.lines)

    @property
    def seconds(self) -> float:
        """Device and host run beside each other, but for what is between two steps."""
        return max(self.device, self.host) + self.between

    @property
    def collectives(self) -> tuple[EstimatedLine, ...]:
        return tuple(each for each in self.lines if each.line.cost.kind == COLLECTIVE)

    @property
    def communication(self) -> float:
        """The share of the device's time in which ranks tell each other something."""
        return sum(each.total for each in self.collectives) / self.device

    @property
    def bytes(self) -> float:
        return sum(each.line.count * each.line.cost.bytes for each in self.lines)

    @property
    def flops(self) -> float:
        return sum(each.line.count * each.line.cost.flops for each in self.lines)

    @property
    def messages(self) -> float:
        """Bytes that a rank tells the others."""
        return sum(each.line.count * each.line.cost.message for each in self.lines)

    @property
    def kernels(self) -> int:
        """Launches of kernels by the device."""
        return sum(each.line.launches for each in self.lines)


def estimated_step(
    device: Device, dtype: str, group: Group | None, plans: FewPlans, step: Step
) -> EstimatedStep:
    """One step on a device, or on each of those of a group."""
    lines = tuple(_line(device, dtype, group, line) for line in step_lines(plans, step))
    launches = step_launches(plans, step)
    between = between_steps(device, 1 if group is None else group.ranks)
    return EstimatedStep(step, lines, launches, host_seconds(device, launches), between)


def _line(device: Device, dtype: str, group: Group | None, line: Line) -> EstimatedLine:
    cost = line.cost
    if group is None or cost.kind != COLLECTIVE:
        seconds = call_seconds(device, dtype, cost, len(line.kernels))
        return EstimatedLine(line, call_floor(device, dtype, cost), seconds)
    algorithm, seconds = group.seconds(line.op, cost.message, dtype)
    return EstimatedLine(line, group.least(line.op, cost.message, dtype), seconds, algorithm)
