"""``history.json``: a history as JSON data and back.

A node that several steps left alone is written once: blocks name their nodes by number in one
table. Matches of one id are written once with their layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from glmc.artifact.records import record
from glmc.observe.history.record import FORMAT, History, NodeHistory, PlanHistory, StepHistory
from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.records import misfit

NAME = "history.json"


def history_to_json(history: History) -> dict[str, Any]:
    """The history as JSON data, times aside, which differ from run to run: what
    :func:`history_from_json` reads back has no seconds and is equal otherwise.

    Matches of a step come back sorted by where their id was first seen, then in order.
    """
    table: dict[NodeHistory, int] = {}
    steps = [_step(step, table) for step in history.steps]
    return {
        **{field.name: getattr(history, field.name) for field in fields(history)},
        "nodes": [_row(node) for node in table],
        "steps": steps,
        "plans": [_plan(plan) for plan in history.plans],
    }


def _row(record: Any) -> list[Any]:
    """The values of a record in the order of its fields."""
    return [getattr(record, field.name) for field in fields(record)]


def _step(step: StepHistory, table: dict[NodeHistory, int]) -> dict[str, Any]:
    plain = {field.name: getattr(step, field.name) for field in fields(step)}
    del plain["seconds"]
    layers: dict[str, list[int | None]] = defaultdict(list)
    for match in step.matches:
        layers[match.id].append(match.layer)
    return {
        **plain,
        "matches": dict(layers),
        "near_misses": [asdict(miss) for miss in step.near_misses],
        "blocks": [
            {
                "layer": block.layer,
                "like": list(block.like),
                "nodes": [table.setdefault(node, len(table)) for node in block.nodes],
            }
            for block in step.blocks
        ],
    }


def _plan(plan: PlanHistory) -> dict[str, Any]:
    plain = {field.name: getattr(plan, field.name) for field in fields(plan)}
    del plain["seconds"]
    blocks = [
        {
            "layer": block.layer,
            "like": list(block.like),
            "calls": [_row(call) for call in block.calls],
            "indices": [list(numbers) for numbers in block.indices],
        }
        for block in plan.blocks
    ]
    return {**plain, "blocks": blocks, "buffers": [_row(buffer) for buffer in plan.buffers]}


def history_from_json(data: Any) -> History:
    """Read a history; raises :class:`ArtifactError` for another format, a lost field, or one that
    holds something else than its annotation says."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ArtifactError(
            f"{NAME} has another format",
            expected=str(FORMAT),
            found=repr(data.get("format") if isinstance(data, dict) else type(data).__name__),
            remedy="make it anew: glmc compile MODEL --output DIR --force",
        )
    try:
        nodes = [record(row, NodeHistory, rows=True) for row in data["nodes"]]
        steps = [_read_step(step, nodes) for step in data["steps"]]
        plans = [_untimed(plan) for plan in data["plans"]]
        known = {name: item for name, item in data.items() if name != "nodes"}
        history: History = record({**known, "steps": steps, "plans": plans}, History, rows=True)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _not_well_formed(repr(error)) from error
    if not history.steps:
        raise _not_well_formed("it has no step")
    problem = misfit(history, History, "history") or _contradiction(history)
    if problem is not None:
        raise _not_well_formed(problem)
    return history


def _contradiction(history: History) -> str | None:
    """A block of calls that does not say for each of its layers where each call stands."""
    for plan in history.plans:
        for block in plan.blocks:
            counts = [len(numbers) for numbers in block.indices]
            if counts != [len(block.calls)] * (1 + len(block.like)):
                return f"the calls of layer {block.layer} in {plan.phase} have other indices"
    return None


def _read_step(data: Mapping[str, Any], nodes: list[NodeHistory]) -> dict[str, Any]:
    """With the nodes in place of their numbers and each match by itself."""
    blocks = [
        {**block, "nodes": [nodes[_place(number)] for number in block["nodes"]]}
        for block in data["blocks"]
    ]
    matches = [[own, layer] for own, layers in data["matches"].items() for layer in layers]
    return {**_untimed(data), "blocks": blocks, "matches": matches}


def _untimed(data: Mapping[str, Any]) -> dict[str, Any]:
    """A step or a plan, of which the file has no seconds."""
    if "seconds" in data:
        raise ValueError("seconds are no part of it")
    return {**data, "seconds": None}


def _place(number: Any) -> int:
    """A number of the table; a negative one would name a node from its end."""
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"{number!r} is no number of a node")
    return number


def _not_well_formed(problem: str) -> ArtifactError:
    return ArtifactError(f"{NAME} is not well formed: {problem}", remedy="compile the model again")
