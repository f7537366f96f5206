"""A history through JSON and back, and data that is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from glmc.artifact.times import PassTimes, Times
from glmc.observe.history.encode import history_from_json, history_to_json
from glmc.observe.history.times import with_times, without_times
from glmc_runtime.errors import ArtifactError
from tests.observe.sample import history


def through_json() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(history_to_json(history())))
    return data


def test_a_history_survives_json() -> None:
    read = history_from_json(through_json())
    assert read == without_times(history()) != history()
    assert with_times(read, Times(passes={"moe_gate": PassTimes(0.25)})) == history()
    assert "seconds" not in json.dumps(through_json())


def test_a_node_that_a_step_left_alone_is_written_once() -> None:
    data = through_json()
    written = sum(len(block["nodes"]) for step in data["steps"] for block in step["blocks"])
    # Two outside the layers, five of a layer and the gate, three of which differ in the first.
    assert (written, len(data["nodes"])) == (48, 2 + 5 + 1 + 3)
    assert data["steps"][2]["matches"] == {"mlp.gate#topk": [0, 1, 2]}


def _without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda data: data.pop(name)


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "another format": lambda data: data.update(format=99),
    "no nodes": _without("nodes"),
    "no prefix": _without("prefix"),
    "steps are a number": lambda data: data.update(steps=4),
    "a node beyond the table": lambda data: data["steps"][0]["blocks"][0].update(nodes=[77]),
    "a node from the end": lambda data: data["steps"][0]["blocks"][0].update(nodes=[-1]),
    "a row too short": lambda data: data["nodes"][0].pop(),
    "an id that is a number": lambda data: data["nodes"][0].__setitem__(0, 5),
    "a time": lambda data: data["steps"][0].update(seconds=1.0),
    "a surplus field": lambda data: data["steps"][0].update(colour="red"),
    "layers that are words": lambda data: data["steps"][2].update(matches={"a": ["b"]}),
    "a call without a kernel": lambda data: data["plans"][0]["blocks"][0]["calls"][0].pop(0),
    "matches that are a list": lambda data: data["steps"][2].update(matches=[]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_no_history_is_refused(damage: Callable[[dict[str, Any]], object]) -> None:
    data = through_json()
    damage(data)
    with pytest.raises(ArtifactError) as refused:
        history_from_json(data)
    assert refused.value.remedy


@pytest.mark.parametrize("data", [None, [], "history", {}, {"format": "1"}])
def test_other_data_is_refused(data: object) -> None:
    with pytest.raises(ArtifactError):
        history_from_json(data)
