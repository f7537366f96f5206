"""What torch.profiler has recorded, as plain records: our ranges, launches, the device's work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from glmc_runtime.replay.timeline.graph_nodes import KERNEL, MEMCPY, MEMSET

PREFIX = "glmc "
"""Of the names of our ranges."""
_DEVICE = {"kernel": KERNEL, "gpu_memcpy": MEMCPY, "gpu_memset": MEMSET}
_LAUNCHES = ("cuda_runtime", "cuda_driver")
_RANGE = "user_annotation"


@dataclass(frozen=True)
class HostRange:
    """A range of ours, or a launch, on a thread of the host. ``name`` is without the prefix;
    ``correlation`` is that of a launch."""

    name: str
    thread: Any
    begin: float
    end: float
    correlation: int = -1


@dataclass(frozen=True)
class DeviceWork:
    """A kernel, copy or fill, and the ``correlation`` of the launch that it came from."""

    kind: str
    name: str
    device: int
    stream: int
    begin: float
    end: float
    correlation: int
    grid: tuple[int, ...] | None = None
    block: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Recorded:
    """All of it, each ascending by its begin."""

    ranges: tuple[HostRange, ...]
    launches: tuple[HostRange, ...]
    work: tuple[DeviceWork, ...]


def read_recorded(events: Iterable[Mapping[str, Any]]) -> Recorded:
    """The records among the ``traceEvents`` of torch.profiler's Chrome trace."""
    ranges, launches, work = [], [], []
    for event in events:
        if event.get("ph") != "X":
            continue
        kind, args = event.get("cat"), event.get("args", {})
        if kind in _DEVICE:
            work.append(_work(event, args))
        elif kind in _LAUNCHES and "correlation" in args:
            launches.append(_host(event, str(event["name"]), args["correlation"]))
        elif kind == _RANGE and str(event["name"]).startswith(PREFIX):
            ranges.append(_host(event, str(event["name"])[len(PREFIX) :]))
    return Recorded(_ascending(ranges), _ascending(launches), _ascending(work))


def _host(event: Mapping[str, Any], name: str, correlation: int = -1) -> HostRange:
    begin = float(event["ts"])
    return HostRange(name, event["tid"], begin, begin + float(event["dur"]), int(correlation))


def _work(event: Mapping[str, Any], args: Mapping[str, Any]) -> DeviceWork:
    begin = float(event["ts"])
    grid, block = args.get("grid"), args.get("block")
    return DeviceWork(
        _DEVICE[event["cat"]],
        str(event["name"]),
        int(args.get("device", 0)),
        int(args.get("stream", 0)),
        begin,
        begin + float(event["dur"]),
        int(args.get("correlation", -1)),
        None if grid is None else tuple(grid),
        None if block is None else tuple(block),
    )


def _ascending(records: list[Any]) -> tuple[Any, ...]:
    return tuple(sorted(records, key=lambda record: record.begin))
