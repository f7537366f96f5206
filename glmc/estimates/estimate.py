"""An estimate: what a model takes of each card, and how long its steps would take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glmc.config import CompileOptions, require_named_dtype
from glmc.estimates.costs import Step
from glmc.estimates.device import Device
from glmc.estimates.device_file import read_device
from glmc.estimates.few_layers import FewPlans, captured, planned
from glmc.estimates.lines import Launches, Line, step_launches, step_lines
from glmc.estimates.seconds import call_floor, call_seconds, host_seconds
from glmc.estimates.traffic import USUAL_CONTEXT, Traffic
from glmc.job import Job, resolve
from glmc.presets.catalog import load_config
from glmc_runtime.format.memory import MemoryNeeds
from glmc_runtime.format.phases import DECODE, PREFILL


@dataclass(frozen=True)
class EstimatedLine:
    """A line of a step; ``floor`` and ``seconds`` are of one of its nodes."""

    line: Line
    floor: float
    seconds: float

    @property
    def total(self) -> float:
        return self.line.count * self.seconds


@dataclass(frozen=True)
class EstimatedStep:
    """``host`` are seconds in which the host launches the step, beside the device."""

    step: Step
    lines: tuple[EstimatedLine, ...]
    launches: Launches
    host: float

    @property
    def floor(self) -> float:
        return sum(each.line.count * each.floor for each in self.lines)

    @property
    def device(self) -> float:
        return sum(each.total for each in self.lines)

    @property
    def seconds(self) -> float:
        """Device and host run beside each other."""
        return max(self.device, self.host)

    @property
    def bytes(self) -> float:
        return sum(each.line.count * each.line.cost.bytes for each in self.lines)

    @property
    def flops(self) -> float:
        return sum(each.line.count * each.line.cost.flops for each in self.lines)

    @property
    def kernels(self) -> int:
        """Launches of kernels by the device."""
        return sum(each.line.launches for each in self.lines)


@dataclass(frozen=True)
class Estimate:
    """``needs`` are those of a card. ``context`` and ``batch``, the largest one, must fit."""

    model: str
    parameters: int
    dtype: str
    device: Device
    needs: MemoryNeeds
    batch: int
    context: int
    steps: tuple[EstimatedStep, ...]

    @property
    def total(self) -> int:
        """Bytes of a card for what is asked."""
        return self.needs.total(self.batch, self.context)

    @property
    def left(self) -> int:
        """Bytes of a card beside weights, arena and step inputs; below 0 they do not fit."""
        return int(self.device.memory.value) - self.needs.without_cache

    @property
    def fits(self) -> bool:
        return self.total <= self.device.memory.value

    @property
    def largest_batch(self) -> int:
        """The most sequences of the context that a card has room for; 0 where there is none."""
        blocks = self.needs.blocks_within(max(self.left, 0))
        return blocks // -(-self.context // self.needs.block_size)

    @property
    def longest_context(self) -> int:
        """The longest context that the largest batch can have."""
        return self.needs.longest_context(self.batch, max(self.left, 0))


def estimate(
    model: str | Path,
    device: str | Device,
    traffic: Traffic,
    dtype: str | None = None,
) -> Estimate:
    """Estimate a preset or a checkpoint directory on a device, by its name, file or description.

    No weight is read. Raises what a compile without weights raises, and UsageError for traffic that
    the model does not know and for a device that there is not.
    """
    known = read_device(device) if isinstance(device, str) else device
    job, traffic = _job(model, known, traffic, dtype)
    return _estimate(known, planned(captured(job)), job, traffic)


def _job(
    model: str | Path, device: Device, traffic: Traffic, dtype: str | None
) -> tuple[Job, Traffic]:
    """The job of a compile that has buckets for the traffic, and the traffic without blanks."""
    require_named_dtype(dtype, "glmc estimate")
    source = load_config(
        model, {"dtype": dtype, "max_position_embeddings": traffic.context or USUAL_CONTEXT}
    )
    published = source.shape.maximum_positions
    traffic = traffic.known(published)
    options = CompileOptions(
        target=device.target,
        dtype=dtype,
        max_context=published,
        decode_buckets=_with(CompileOptions.decode_buckets, max(traffic.batches)),
        prefill_buckets=_with(CompileOptions.prefill_buckets, traffic.prompt or 1),
        weights="none",
    )
    return resolve(source, options), traffic


def _with(buckets: tuple[int, ...], largest: int) -> tuple[int, ...]:
    """Buckets of a compile that has one for a step so large."""
    return buckets if largest <= buckets[-1] else (*buckets, largest)


def _estimate(device: Device, plans: FewPlans, job: Job, traffic: Traffic) -> Estimate:
    context, prompt = traffic.context or 0, traffic.prompt or 0
    rows = {name: job.options.buckets[name] for name in (DECODE.name, PREFILL.name)}
    steps = [
        Step(DECODE.name, batch, 1, context, _bucket(rows[DECODE.name], batch))
        for batch in traffic.batches
    ]
    steps.append(Step(PREFILL.name, 1, prompt, prompt, _bucket(rows[PREFILL.name], prompt)))
    shape, dtype = job.source.shape, str(job.dtype).removeprefix("torch.")
    return Estimate(
        shape.name,
        shape.parameters,
        dtype,
        device,
        plans.needs,
        max(traffic.batches),
        context,
        tuple(estimated_step(device, dtype, plans, step) for step in steps),
    )


def estimated_step(device: Device, dtype: str, plans: FewPlans, step: Step) -> EstimatedStep:
    """One step on a device."""
    lines = tuple(
        EstimatedLine(
            line,
            call_floor(device, dtype, line.cost),
            call_seconds(device, dtype, line.cost, len(line.kernels)),
        )
        for line in step_lines(plans, step)
    )
    launches = step_launches(plans, step)
    return EstimatedStep(step, lines, launches, host_seconds(device, launches))


def _bucket(buckets: tuple[int, ...], rows: int) -> int:
    return next(bucket for bucket in buckets if bucket >= rows)
