"""Record the steps of an artifact in this process, and write them as a timeline."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike

import torch

from glmc_runtime.engine.assemble import Machine
from glmc_runtime.errors import RequestError
from glmc_runtime.format.artifact_files import ArtifactFiles
from glmc_runtime.format.values import VALUES, read_values
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.package.constants import __version__
from glmc_runtime.replay.phase import PhaseReplay
from glmc_runtime.replay.statistics import Statistics
from glmc_runtime.replay.timeline.device_timer import DeviceTimer
from glmc_runtime.replay.timeline.host_timer import HostTimer
from glmc_runtime.replay.timeline.timer import StepTimer
from glmc_runtime.replay.timeline.trace import NodeFacts, Plans, TimelineFacts, trace_of

_RESULT = re.compile(r"\[\d+\]$")


@contextmanager
def timeline(path: str | PathLike[str], artifact: Artifact, machine: Machine) -> Iterator[None]:
    """Time the steps of a machine in the body and write them to ``path``, even if it fails.

    Raises :class:`RequestError` for a file that can't be written, for a machine that is timed
    already and for one whose steps run in other processes.
    """
    phases, device, exclusive = machine.phases, machine.device, machine.exclusive
    if not phases:
        raise in_other_processes()
    _check_writable(path)
    plans = Plans(
        {key.phase: plan for key, plan in artifact.plans.items()}, _node_facts(artifact.files)
    )
    facts = _facts(artifact, device, machine.statistics)
    timer = DeviceTimer(device) if device.type == "cuda" else HostTimer()
    with exclusive:
        _attach(phases, timer)
    try:
        with timer:
            yield
    finally:
        with exclusive:
            for phase in phases:
                phase.timer = None
            with torch.inference_mode(), machine.stream_order.enter():
                recording = timer.recording()
        with open(path, "w", encoding="utf-8") as file:
            json.dump(trace_of(recording, plans, facts), file, separators=(",", ":"))


def in_other_processes() -> RequestError:
    """The error where the calls of an artifact are not this process's own."""
    return RequestError(
        "the calls of an artifact of several ranks are in other processes than the profiler",
        remedy="run 'torchrun --nproc-per-node N', where rank 0 profiles its own calls",
    )


def _attach(phases: Sequence[PhaseReplay], timer: StepTimer) -> None:
    if any(phase.timer is not None for phase in phases):
        raise RequestError(
            "a timeline of these steps is being written",
            remedy="end one timeline before the next",
        )
    for phase in phases:
        phase.timer = timer


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
