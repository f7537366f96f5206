"""Record the steps of an artifact, of all ranks where this process has started them, and write them
as a timeline."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike

import torch

from glmc_runtime.engine.assemble import Machine
from glmc_runtime.engine.own_times import OwnTimes
from glmc_runtime.errors import RequestError
from glmc_runtime.format.artifact_files import ArtifactFiles
from glmc_runtime.format.values import VALUES, read_values
from glmc_runtime.loading.loader import Artifact, plans_of
from glmc_runtime.package.constants import __version__
from glmc_runtime.replay.statistics import Statistics
from glmc_runtime.replay.timeline.step_times import StepTimes
from glmc_runtime.replay.timeline.trace import NodeFacts, Plans, Ranked, TimelineFacts, trace_of

_RESULT = re.compile(r"\[\d+\]$")


@contextmanager
def timeline(path: str | PathLike[str], artifact: Artifact, machine: Machine) -> Iterator[None]:
    """Time the steps of a machine in the body and write them to ``path``, even if it fails.

    Raises :class:`RequestError` for a file that can't be written, for a machine that is timed
    already and for one whose steps run on cards of other processes.
    """
    _check_writable(path)
    times: StepTimes = machine.times or OwnTimes(machine)
    nodes, count = _node_facts(artifact.files), artifact.manifest.ranks.count
    ranks = range(count) if machine.times else [artifact.rank]
    plans = [
        Plans({key.phase: plan for key, plan in plans_of(artifact, rank).items()}, nodes)
        for rank in ranks
    ]
    facts = _facts(artifact, machine.device, machine.statistics)
    times.begin()
    try:
        yield
    finally:
        recordings = times.end()
        timed = [
            Ranked(recording, its, rank if count > 1 else None)
            for recording, its, rank in zip(recordings, plans, ranks, strict=True)
        ]
        with open(path, "w", encoding="utf-8") as file:
            json.dump(trace_of(timed, facts), file, separators=(",", ":"))


def in_other_processes() -> RequestError:
    """The error where the calls of an artifact are not this process's own."""
    return RequestError(
        "the calls of an artifact of several ranks are in other processes than the profiler",
        remedy="run 'torchrun --nproc-per-node N', where rank 0 profiles its own calls",
    )


def on_cards(device: str) -> RequestError:
    """The error where ranks in other processes compute on cards, which this process can't time."""
    return RequestError(
        "a timeline of several ranks is timed by the host, and these are on cards",
        expected="ranks on a CPU or emulated in host memory",
        found=device,
        remedy="run 'torchrun --nproc-per-node N', where rank 0 times its own calls",
    )


def _facts(artifact: Artifact, device: torch.device, statistics: Statistics) -> TimelineFacts:
    manifest = artifact.manifest
    versions = {
        "glmc-runtime": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        **{f"compiled with {name}": text for name, text in sorted(manifest.versions.items())},
    }
    on_device = device.type == "cuda"
    return TimelineFacts(
        manifest.model.name,
        manifest.target,
        manifest.dtype,
        torch.cuda.get_device_name(device) if on_device else device.type,
        statistics.emulated,
        statistics.interpreted,
        versions,
        manifest.ranks.count,
    )


def _node_facts(files: ArtifactFiles) -> Mapping[str, Mapping[str, NodeFacts]]:
    """What made each node, as ``values.json`` says; an artifact may be without it."""
    if VALUES not in files:
        return {}
    return {
        name: {
            _RESULT.sub("", value.node): NodeFacts(value.passes, value.source) for value in values
        }
        for name, values in read_values(files).phases.items()
    }


def _check_writable(path: str | PathLike[str]) -> None:
    """A path that can't be written is refused before the work, not after it."""
    try:
        with open(path, "w", encoding="utf-8"):
            pass
    except OSError as error:
        raise RequestError(
            f"the timeline can't be written: {error.strerror}",
            place=str(path),
            remedy="name a file in a folder that exists",
        ) from error
