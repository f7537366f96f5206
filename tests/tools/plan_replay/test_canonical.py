"""The canonical text forgets what only counts, and nothing that a compiler decides."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from tests.tools.plan_replay.toy import toy_plan, with_a_call_in_front
from tools.plan_replay.canonical import Renames, canonical, renamed

Edit = Callable[[dict[str, Any]], object]
WEIGHTS = {"table": {"Weight": {"recipe": {"RopeTable": {"inverse_frequencies": [0.31622776]}}}}}


def text_of(plan: dict[str, Any]) -> str:
    return canonical(plan, WEIGHTS)


def edited(edit: Edit) -> dict[str, Any]:
    plan = toy_plan()
    edit(plan)
    return plan


def _renumber(plan: dict[str, Any]) -> None:
    number = {0: 7, 1: 3, 2: 5}
    for one in plan["buffers"]:
        one["id"] = number[one["id"]]
    plan["buffers"].reverse()
    plan["output"] = number[plan["output"]]
    for call in plan["calls"]:
        for argument in call["arguments"].values():
            if "buffer" in argument:
                argument["buffer"] = number[argument["buffer"]]


def _reverse_keys(plan: dict[str, Any]) -> None:
    for call in plan["calls"]:
        call["arguments"] = dict(reversed(call["arguments"].items()))
        call["writes"].reverse()


IGNORED: dict[str, Edit] = {
    "schema": lambda plan: plan.update(schema_version=2),
    "order of keys": _reverse_keys,
    "order of inputs": lambda plan: plan["inputs"].reverse(),
    "numbers of buffers": _renumber,
}
SEEN: dict[str, Edit] = {
    "function": lambda plan: plan["calls"][0].update(function="cpu.copy"),
    "constant": lambda plan: plan["calls"][1]["arguments"].update(eps={"value": 1e-06}),
    "argument gone": lambda plan: plan["calls"][1]["arguments"].pop("eps"),
    "other buffer": lambda plan: plan["calls"][1]["arguments"].update(x={"buffer": 1}),
    "other input": lambda plan: plan["calls"][0]["arguments"].update(x={"input": "positions"}),
    "view of a buffer": lambda plan: plan["calls"][1]["arguments"]["x"].update(shape=["tokens"]),
    "written": lambda plan: plan["calls"][1]["writes"].pop(),
    "host": lambda plan: plan["calls"][0].update(host=True),
    "node": lambda plan: plan["calls"][0].update(node="other"),
    "field of a later version": lambda plan: plan["calls"][0].update(stream=1),
    "order of calls": lambda plan: plan["calls"].reverse(),
    "offset": lambda plan: plan["buffers"][1].update(offset="64*tokens"),
    "dtype": lambda plan: plan["buffers"][1].update(dtype="bfloat16"),
    "shape": lambda plan: plan["buffers"][1].update(shape=["tokens", 32]),
    "end of a buffer": lambda plan: plan["buffers"][0].update(last=0),
    "end outside of the calls": lambda plan: plan["buffers"][0].update(last=9),
    "arena": lambda plan: plan.update(arena="512*tokens"),
    "output": lambda plan: plan.update(output=1),
    "greedy": lambda plan: plan.update(greedy=1),
    "field of the plan": lambda plan: plan.update(streams=2),
    "input": lambda plan: plan["inputs"][0].update(dtype="int32"),
    "segment": lambda plan: plan["segments"][0].update(captured=False),
    "segments": lambda plan: plan.update(
        segments=[
            {"first": 0, "last": 0, "captured": True},
            {"first": 1, "last": 1, "captured": True},
        ]
    ),
}


@pytest.mark.parametrize("name", IGNORED)
def test_ignored(name: str) -> None:
    plan = edited(IGNORED[name])
    assert json.dumps(plan) != json.dumps(toy_plan())
    assert text_of(plan) == text_of(toy_plan())


@pytest.mark.parametrize("name", SEEN)
def test_seen(name: str) -> None:
    assert text_of(edited(SEEN[name])) != text_of(toy_plan())


def test_the_plan_is_left_as_it_was() -> None:
    plan = toy_plan()
    text_of(plan)
    assert plan == toy_plan()


def test_a_call_more_is_lines_more_and_moves_no_other() -> None:
    old = text_of(toy_plan()).splitlines()
    new = iter(text_of(with_a_call_in_front()).splitlines())
    segment = ' segment {"captured": true}'
    lost = [line for line in old if line != segment and line not in new]
    assert not lost


class TestWeights:
    def test_the_last_digits_of_constants_are_the_machine_s(self) -> None:
        other = deepcopy(WEIGHTS)
        other["table"]["Weight"]["recipe"]["RopeTable"]["inverse_frequencies"] = [0.31622779]
        assert canonical(toy_plan(), other) == text_of(toy_plan())

    def test_another_recipe_is_another_plan(self) -> None:
        other = deepcopy(WEIGHTS)
        other["table"]["Weight"]["recipe"]["RopeTable"]["inverse_frequencies"] = [0.3166]
        assert canonical(toy_plan(), other) != text_of(toy_plan())


class TestRenames:
    RENAMES = Renames(
        inputs={"token_ids": "ids"},
        functions={"cpu.embedding": "cpu.look_up"},
        arguments={"x": "table_rows"},
    )

    def test_a_renaming_leaves_plans_equal(self) -> None:
        plan = toy_plan()
        plan["inputs"][0]["name"] = "ids"
        plan["calls"][0]["function"] = "cpu.look_up"
        plan["calls"][0]["arguments"]["x"] = {"input": "ids"}
        for call in plan["calls"]:
            arguments = call["arguments"].items()
            call["arguments"] = {{"x": "table_rows"}.get(key, key): of for key, of in arguments}
        assert text_of(plan) != text_of(toy_plan())
        assert text_of(renamed(toy_plan(), self.RENAMES)) == text_of(plan)

    def test_and_no_more_than_that(self) -> None:
        plan = toy_plan()
        plan["inputs"][0]["name"] = "ids"
        plan["calls"][0]["function"] = "cpu.look_up"
        assert text_of(renamed(toy_plan(), self.RENAMES)) != text_of(plan)
