"""Adds what the compiler knows to a timeline that the runtime wrote: bytes, operations and floors.

The runtime knows calls and no ops. The facts of the ops are here, and an artifact's history says
which op a node is and of which shapes, so a file is completed after the run, on any machine.
A node may take several calls: what it costs stands at the last of them, which completes it, and
the share that the floor has of the time of all of them at each.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from glmc.errors import UsageError
from glmc.estimates.costs import Cost
from glmc.estimates.device import Device
from glmc.estimates.device_file import read_device
from glmc.estimates.history_costs import HistoryCosts, RecordedStep
from glmc.estimates.names import device_names
from glmc.estimates.seconds import call_floor
from glmc.observe.history.ids import calls_of, layers_of
from glmc.observe.history.record import CallHistory, History
from glmc.observe.history.stored import read_history
from glmc.plain_file import read_plain
from glmc_runtime.errors import ArtifactError
from glmc_runtime.loading.loader import listed_files

LARGEST = 4 << 30
UNKNOWN_DEVICE = "no floors: no device was named, and the one of the run is not described"
COUNTED = "by the facts of the ops, without padding; experts as tokens choose them evenly"
_ROUNDED = 3
Event = dict[str, Any]


def add_costs(file: Path, artifact: Path, device: str | None = None) -> None:
    """Complete a timeline of an artifact. Floors are those of ``device``, a name or a file of
    docs/estimate.md, else of the card that the timeline names, where that is described.

    One of several ranks is left as it is. Raises UsageError for a file that is no timeline of
    glmc's runtime, and for a device that there is not or that is of another target.
    """
    described = None if device is None else read_device(device)
    manifest, _ = listed_files(artifact)
    if described is not None and described.target != manifest.target:
        raise UsageError(
            "the device is of another target than the artifact",
            expected=manifest.target,
            found=f"{described.name}, {described.target}",
            remedy="name a device of the artifact's target",
        )
    if manifest.ranks.count > 1:
        return
    data = _read(file)
    try:
        history = read_history(artifact)
    except ArtifactError as error:
        data["glmc"]["costs"] = f"left out: {error.message}"
    else:
        described = described or described_card(str(data["glmc"]["device"]))
        complete(data, history, manifest.cache.block_size, described)
    # Beside it first: a full disk must not cost the recording.
    whole = file.with_name(f".{file.name}.partial")
    whole.write_text(json.dumps(data, separators=(",", ":")), encoding="utf-8")
    whole.replace(file)


def described_card(title: str) -> Device | None:
    """The description of a card by the name that its driver gives it."""
    found = (read_device(name) for name in device_names())
    return next((device for device in found if device.title == title), None)


def complete(
    data: Mapping[str, Any], history: History, block_size: int, device: Device | None
) -> None:
    """Fill in what the history and the ops say of the calls of a timeline, in place."""
    about = data["glmc"]
    events = [event for event in data["traceEvents"] if event.get("ph") == "X"]
    steps = {each["args"]["step"]: _step(each["args"]) for each in events if each["cat"] == "step"}
    costs = HistoryCosts(block_size)
    plans = {plan.phase: dict(_calls(history, plan.phase)) for plan in history.plans}
    for step, events_of_node in _nodes(events):
        for event in events_of_node:
            call = plans[event["args"]["phase"]][event["args"]["call"]]
            event["args"] |= {"passes": list(call.passes), "source": call.source}
        recorded = steps.get(step)
        if recorded is not None:
            _fill(events_of_node, costs.cost(call, recorded), about, device)
    floors = UNKNOWN_DEVICE
    if device is not None:
        read = device.read
        floors = f"floors of {device.title}, {read.value / 1e12:.2f} TB/s ({read.kind})"
    about["costs"] = f"{COUNTED}; {floors}"


def _fill(calls: list[Event], cost: Cost, about: Mapping[str, Any], device: Device | None) -> None:
    """The cost of a node at the last of its calls, and 0 at the others, so that sums are right."""
    for event in calls:
        last = event is calls[-1]
        event["args"] |= {"bytes": round(cost.bytes) * last, "operations": round(cost.flops) * last}
    if device is None:
        return
    floor = call_floor(device, about["dtype"], cost) * 1e6
    taken = sum(event["dur"] for event in calls)
    share = None if about["emulated"] or about["interpreted"] or not taken else floor / taken
    for event in calls:
        event["args"]["floor_us"] = round(floor, _ROUNDED) if event is calls[-1] else 0
        event["args"]["share_of_floor"] = None if share is None else round(share, _ROUNDED)


def _nodes(events: list[Event]) -> Iterator[tuple[int, list[Event]]]:
    """For each node in each step the number of the step and the node's calls, in their order."""
    found: dict[tuple[int, str], list[Event]] = defaultdict(list)
    for event in events:
        if event["cat"] == "call":
            found[event["args"]["step"], event["args"]["node"]].append(event)
    for (step, _), calls in found.items():
        yield step, sorted(calls, key=lambda event: event["args"]["call"])


def _step(args: Mapping[str, Any]) -> RecordedStep | None:
    """None for a step that does not say how long its sequences are."""
    if args["context"] is None:
        return None
    return RecordedStep(*(args[each.name] for each in fields(RecordedStep)))


def _calls(history: History, phase: str) -> Iterator[tuple[int, CallHistory]]:
    plan = next(plan for plan in history.plans if plan.phase == phase)
    for layer in (None, *range(layers_of(history))):
        yield from calls_of(plan, layer)


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_plain(file, LARGEST))
        if data["glmc"]["format"] == 1:
            return dict(data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_timeline(file) from error
    raise _no_timeline(file)


def _no_timeline(file: Path) -> UsageError:
    return UsageError(
        "the file is no timeline of glmc's runtime",
        place=str(file),
        expected="what glmc run --timeline or session.timeline wrote",
    )
