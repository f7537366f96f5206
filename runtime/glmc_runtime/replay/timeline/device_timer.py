"""Calls timed on a device, by torch.profiler: kernels, also those of replayed device graphs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.replay.bound_step import Sizes
from glmc_runtime.replay.timeline.attribution import CALL, GRAPH, STEP, recording_of
from glmc_runtime.replay.timeline.graph_nodes import Nodes, graph_nodes
from glmc_runtime.replay.timeline.kineto import PREFIX, read_recorded
from glmc_runtime.replay.timeline.records import Recording, StepTime, sizes_of
from glmc_runtime.replay.timeline.timer import DeviceGraph, Place

_ALONE = "a graph of one rank of several can't be captured by itself"


class DeviceTimer:
    """Names steps, calls and graphs in what the profiler records; :meth:`recording` joins them.

    A device graph is captured once more at the end, beside nothing that is timed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._steps: dict[int, StepTime] = {}
        self._begun = 0
        self._graphs: dict[str, DeviceGraph] = {}
        self._profile = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])

    def __enter__(self) -> DeviceTimer:
        torch.cuda.synchronize(self._device)
        self._profile.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        torch.cuda.synchronize(self._device)
        self._profile.__exit__(*error)

    @contextmanager
    def step(
        self, plan: PhasePlan, step: Sizes, *, replayed: bool, guarded: bool
    ) -> Iterator[None]:
        number, self._begun = self._begun, self._begun + 1
        with record_function(f"{PREFIX}{STEP}{number}"):
            yield
        sizes = sizes_of(step)
        self._steps[number] = StepTime(number, plan.name, sizes, replayed, guarded, 0.0, 0.0)

    def call(self, place: Place) -> AbstractContextManager[object]:
        return record_function(f"{PREFIX}{CALL}{place}")

    def graph(self, graph: DeviceGraph) -> AbstractContextManager[object]:
        self._graphs.setdefault(graph.key, graph)
        return record_function(f"{PREFIX}{GRAPH}{graph.key}")

    def recording(self) -> Recording:
        """What was timed. Captures each graph that was replayed once more."""
        graphs = {key: _nodes(graph) for key, graph in self._graphs.items()}
        return recording_of(read_recorded(self._events()), graphs, self._steps)

    def _events(self) -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json"
            self._profile.export_chrome_trace(str(file))
            events: list[dict[str, Any]] = json.loads(file.read_bytes())["traceEvents"]
        return events


def _nodes(graph: DeviceGraph) -> Nodes:
    return _ALONE if graph.recapture is None else graph_nodes(graph.recapture)
