"""A rank that records: it runs the whole recording, and its controller gets the values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from glmc_runtime.engine.ranks.channel import Channel
from glmc_runtime.engine.ranks.reporter import Reporter
from glmc_runtime.engine.ranks.serve import Settings, joined, say_ready
from glmc_runtime.record.artifact_run import ArtifactRun
from glmc_runtime.record.options import RecordOptions
from glmc_runtime.record.plan_values import values_of
from glmc_runtime.record.ranks.wire import ValuesToController
from glmc_runtime.record.recording import Recording

TASK = f"{__name__}:record"


def work_of(options: RecordOptions, run: ArtifactRun) -> dict[str, Any]:
    """What ranks are told of a recording, as plain data."""
    asked = {**vars(options), "layers": sorted(options.layers)}
    return {"options": asked, "graph": run.graph, "tap_memory": run.tap_memory}


def options_of(work: Mapping[str, Any]) -> RecordOptions:
    """The options in it."""
    asked = dict(work["options"])
    for name in ("prompts", "tokens"):
        if asked[name] is not None:
            asked[name] = tuple(map(tuple, asked[name]))
    asked |= {"layers": frozenset(asked["layers"]), "modules": tuple(asked["modules"])}
    return RecordOptions(**asked)


def record(
    data: dict[str, Any], channel: Channel, reporter: Reporter, shared: Sequence[int]
) -> None:
    """The task of a rank, as :func:`glmc_runtime.engine.ranks.serve.serve` is one."""
    settings = Settings.from_json(data)
    _, meeting = shared
    artifact, group = joined(settings, reporter, meeting)
    work = settings.work
    run = ArtifactRun(work["graph"], work["tap_memory"], settings.options)
    receiver = ValuesToController(channel)
    values, options = values_of(artifact), options_of(work)
    recording = Recording(artifact, values, receiver, options, run, group)
    say_ready(reporter, recording.loaded.device, recording.loaded.statistics)
    with torch.inference_mode():
        recording.steps()
    channel.receive()  # a rank that has ended is one that has failed: until it is told to
