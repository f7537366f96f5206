"""Ranks that record as threads of one process, with what they tell in queues."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from queue import Queue

import torch

from glmc_runtime.engine.ranks.member import group_of
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.record.artifact_run import ArtifactRun
from glmc_runtime.record.options import RecordOptions
from glmc_runtime.record.plan_values import values_of
from glmc_runtime.record.ranks.controller import by_phase
from glmc_runtime.record.ranks.values_of_ranks import ValuesOfRanks
from glmc_runtime.record.ranks.wire import ValuesToController, read_message
from glmc_runtime.record.recording import Recording
from glmc_runtime.record.sink import Sink
from glmc_runtime.record.values_to_sink import ValuesToSink
from tests.support.ranks import LIMIT, on_ranks, process_groups


class Messages:
    """A channel within a process."""

    def __init__(self) -> None:
        self._queue: Queue[bytes] = Queue()

    def send(self, message: bytes) -> None:
        self._queue.put(message)

    def receive(self) -> bytes:
        return self._queue.get(timeout=LIMIT)


def record_in_threads(path: Path, sink: Sink, options: RecordOptions, run: ArtifactRun) -> None:
    """What :func:`glmc_runtime.record.artifact.record_artifact` does with processes."""
    first = load_artifact(path, verify_hashes=False, rank=None)
    size, values = first.manifest.ranks.count, values_of(first)
    channels, groups = [Messages() for _ in range(size)], process_groups(size)

    def act(number: int) -> None:
        if number == size:
            reads = [partial(read_message, each) for each in channels]
            ValuesOfRanks(ValuesToSink(sink), by_phase(first, values, options), reads).follow()
            return
        artifact = load_artifact(path, verify_hashes=False, rank=number)
        group = group_of(artifact, groups[number], number, size)
        receiver = ValuesToController(channels[number])
        with torch.inference_mode():
            Recording(artifact, values, receiver, options, run, group).steps()

    on_ranks(size + 1, act)
