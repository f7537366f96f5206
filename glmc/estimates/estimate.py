"""An estimate: what a model takes of each card, and how long its steps would take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from glmc.config import CompileOptions, require_named_dtype
from glmc.errors import LoweringError, UsageError
from glmc.estimates.collectives import Group, group_of
from glmc.estimates.costs import Step
from glmc.estimates.device import Device
from glmc.estimates.device_file import read_device
from glmc.estimates.few_layers import FewLayers, captured, planned
from glmc.estimates.placement import Placement, placements
from glmc.estimates.step_estimate import EstimatedStep, estimated_step
from glmc.estimates.traffic import USUAL_CONTEXT, Traffic
from glmc.job import Job, resolve
from glmc.presets.catalog import load_config
from glmc_runtime.errors import PlanError
from glmc_runtime.format.collectives import AlgorithmTable
from glmc_runtime.format.collectives_json import read_table
from glmc_runtime.format.memory import MemoryNeeds
from glmc_runtime.format.phases import DECODE, PREFILL


@dataclass(frozen=True)
class Placed:
    """A model dealt to cards: ``needs`` are those of a card, ``batch`` sequences, the most of the
    traffic's that one group of cards decodes, of ``context`` tokens must fit."""

    placement: Placement
    group: Group | None
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
        """The longest context that the batch can have."""
        return self.needs.longest_context(self.batch, max(self.left, 0))

    @property
    def decode(self) -> EstimatedStep:
        """Of the largest batch."""
        return max(
            (each for each in self.steps if each.step.phase == DECODE.name),
            key=lambda each: each.step.sequences,
        )

    @property
    def prefill(self) -> EstimatedStep:
        return next(each for each in self.steps if each.step.phase == PREFILL.name)

    @property
    def tokens_per_second(self) -> float:
        """Decoded by all cards at the largest batch."""
        return self.placement.replicas * self.batch / self.decode.seconds


@dataclass(frozen=True)
class Estimate:
    """``placed`` is what was asked for, or the best of ``options``: each way to deal the model to
    the cards; ``refused`` are those that can't be compiled, with the reason."""

    model: str
    parameters: int
    dtype: str
    device: Device
    placed: Placed
    options: tuple[Placed, ...]
    refused: tuple[tuple[Placement, str], ...]


def estimate(
    model: str | Path,
    device: str | Device,
    traffic: Traffic,
    dtype: str | None = None,
    cards: int = 1,
    tensor_parallel: int | None = None,
    expert_parallel: bool = False,
    collectives: str | None = None,
) -> Estimate:
    """Estimate a preset or a checkpoint directory on cards of a device, by its name, file or
    description. Without ``tensor_parallel`` the best way to deal it to the cards is taken: that
    which fits and decodes most tokens a second. ``collectives`` is the text of a table that ranks
    go by in place of the target's; where it was measured, its times are taken.

    No weight is read. Raises what a compile without weights raises, and UsageError for traffic that
    the model does not know, for a device that there is not and for more cards than its host has.
    """
    known = read_device(device) if isinstance(device, str) else device
    _require_cards(known, cards)
    job, traffic = _job(model, known, traffic, dtype)
    asked = placements(cards, tensor_parallel, expert_parallel, job.source.fields.moe is not None)
    table = _table(collectives, cards)
    few = captured(job)
    options: list[Placed] = []
    refused: list[tuple[Placement, str]] = []
    for placement in asked:
        try:
            options.append(_placed(known, few, placement, traffic, table))
        except (LoweringError, PlanError) as error:
            if len(asked) == 1:
                raise
            refused.append((placement, error.message))
    if not options:
        raise UsageError(
            "the model can't be dealt to these cards",
            found="; ".join(f"{placement}: {reason}" for placement, reason in refused),
        )
    shape = job.source.shape
    best = max(options, key=lambda each: (each.fits, each.tokens_per_second))
    return Estimate(
        shape.name, shape.parameters, _dtype(job), known, best, tuple(options), tuple(refused)
    )


def _require_cards(device: Device, cards: int) -> None:
    """Links are those within one host: of more cards nothing is known."""
    if cards > device.cards:
        raise UsageError(
            f"the description of {device.name} is of a host with {device.cards} cards",
            expected=f"1 to {device.cards}",
            found=f"--cards {cards}",
            remedy="fewer cards, or a FILE.yaml with the cards and links of another host",
        )


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


def _table(text: str | None, cards: int) -> AlgorithmTable | None:
    """The table of a text; raises ArtifactError for one that is not well formed."""
    if text is None:
        return None
    if cards == 1:
        raise UsageError(
            "one card has no collectives",
            found="--collectives without --cards",
            remedy="add --cards 8, say",
        )
    return read_table(text.encode(), "--collectives")


def _placed(
    device: Device,
    few: FewLayers,
    placement: Placement,
    traffic: Traffic,
    table: AlgorithmTable | None,
) -> Placed:
    """Raises LoweringError for a way that the target has no kernels for, and PlanError for one that
    the table knows nothing of."""
    dtype = _dtype(few.job)
    group = group_of(device, placement.ranks, table)
    if group is not None:
        group.entry(dtype)
    options = replace(
        few.job.options,
        tensor_parallel=placement.ranks,
        expert_parallel=placement.expert_parallel,
    )
    batches = tuple(sorted({-(-batch // placement.replicas) for batch in traffic.batches}))
    options = replace(options, decode_buckets=_with(CompileOptions.decode_buckets, batches[-1]))
    plans = planned(few, options)
    steps = _steps(options, batches, traffic.context or 1, traffic.prompt or 1)
    return Placed(
        placement,
        group,
        device,
        plans.needs,
        batches[-1],
        traffic.context or 1,
        tuple(estimated_step(device, dtype, group, plans, step) for step in steps),
    )


def _steps(
    options: CompileOptions, batches: tuple[int, ...], context: int, prompt: int
) -> Iterator[Step]:
    for batch in batches:
        rows = _bucket(options.decode_buckets, batch)
        yield Step(DECODE.name, batch, 1, context, rows)
    yield Step(PREFILL.name, 1, prompt, prompt, _bucket(options.prefill_buckets, prompt))


def _bucket(buckets: tuple[int, ...], rows: int) -> int:
    return next(bucket for bucket in buckets if bucket >= rows)


def _dtype(job: Job) -> str:
    return str(job.dtype).removeprefix("torch.")
