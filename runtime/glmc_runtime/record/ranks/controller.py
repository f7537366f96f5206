"""The process that records ranks: it starts them, and makes one record of what they send."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from glmc_runtime.engine.machines import require_distributed
from glmc_runtime.engine.ranks.channel import ChannelClosedError
from glmc_runtime.engine.ranks.controller import Started, started
from glmc_runtime.engine.ranks.member import launched
from glmc_runtime.engine.ranks.messages import Encoder, Kind
from glmc_runtime.errors import RequestError
from glmc_runtime.format.values import Values
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.record.artifact_run import ArtifactRun
from glmc_runtime.record.options import RecordOptions
from glmc_runtime.record.plan_values import RecordedValue, recorded_values
from glmc_runtime.record.ranks.member import TASK, work_of
from glmc_runtime.record.ranks.values_of_ranks import Message, ValuesOfRanks
from glmc_runtime.record.ranks.wire import read_message
from glmc_runtime.record.values_to_sink import ValuesToSink


def record_on_ranks(
    artifact: Artifact,
    values: Values,
    receiver: ValuesToSink,
    options: RecordOptions,
    run: ArtifactRun,
) -> None:
    """Record an artifact of several ranks, which are processes of this host; they have ended when
    this returns. Raises what ends one of them."""
    require_distributed()
    place = launched()
    if place is not None:
        raise RequestError(
            "the ranks of a record are started by it, and torchrun has started some",
            expected="one process",
            found=f"rank {place.rank} of {place.size}",
            remedy="run the command without torchrun",
        )
    _require_one_plan(artifact)
    chosen = by_phase(artifact, values, options)
    work = work_of(options, run)
    with started(artifact, run.load, TASK, work, run.verify_hashes) as ranks:
        reads = [partial(_read, ranks, rank) for rank in range(len(ranks.ends))]
        ValuesOfRanks(receiver, chosen, reads).follow()
        _end(ranks)


def by_phase(
    artifact: Artifact, values: Values, options: RecordOptions
) -> dict[str, Sequence[RecordedValue]]:
    """The values that are asked for."""
    return {
        key.phase: recorded_values(plan, values.phases[key.phase], options)
        for key, plan in artifact.plans.items()
    }


def _require_one_plan(artifact: Artifact) -> None:
    """``values.json`` is of one rank's program."""
    manifest = artifact.manifest
    if len(manifest.phases) > len(manifest.phases_of(0)):
        raise RequestError(
            "ranks that have plans of their own can't be recorded: no table is of their values",
            expected="one plan of each phase, which all ranks run",
            found=", ".join(entry.key.file for entry in manifest.phases),
        )


def _read(ranks: Started, rank: int) -> Message:
    try:
        return read_message(ranks.ends[rank].steps)
    except ChannelClosedError:
        raise ranks.watch.failure() from None


def _end(ranks: Started) -> None:
    def ask() -> None:
        for each in ranks.ends:
            each.steps.send(Encoder.numbers(Kind.STOP))

    ranks.watch.stop(ask)
    ranks.watch.join()
    for each in ranks.ends:
        each.steps.close()
