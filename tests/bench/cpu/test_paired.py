"""Sides take turns with the same tokens, and ratios are those of pairs."""

from __future__ import annotations

import time
from typing import Any

import pytest

from bench.cpu import paired
from bench.cpu.paired import Measured, Middle, Turns
from bench.cpu.work import Work

DECODE = Work("decode", size=2, rounds=3, steps=4)


class Told:
    """A side that notes what it is told, in a list that all share, and needs known seconds."""

    def __init__(self, name: str, log: list[tuple[str, str, Any]], seconds: float) -> None:
        self.name, self._log, self._seconds = name, log, seconds

    def ask(self, order: str, **given: Any) -> dict[str, Any]:
        self._log.append((self.name, order, given))
        answer = {"spun": 0.25, "waited": 1.0, "VmHWM": 7.0, "RssAnon": float(len(self._log))}
        return {**answer, "seconds": self._seconds}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Any]]:
    monkeypatch.setattr(paired, "Reads", lambda clock: type("Read", (), {"best": lambda _: 2e9})())
    return []


def turns(log: list[tuple[str, str, Any]], **seconds: float) -> Turns:
    sides: Any = [Told(name, log, each) for name, each in seconds.items()]
    return Turns(sides, 100, time.perf_counter)


def test_the_order_swaps_and_the_first_round_is_left_out(log: list[tuple[str, str, Any]]) -> None:
    found = turns(log, a=0.4, b=0.8).measure(DECODE, ["a", "b"])
    blocks = [name for name, order, _ in log if order == "decode"]
    assert "".join(blocks) in ("abbaabba", "baabbaab")
    assert found.seconds == {"a": [0.1] * 3, "b": [0.2] * 3}  # of a step
    assert found.reads == [2e9] * 3
    assert found.rates("a") == Middle(20, 20, 20)


def test_all_sides_have_the_same_tokens_in_a_round(log: list[tuple[str, str, Any]]) -> None:
    turns(log, a=1.0, b=1.0).measure(DECODE, ["a", "b"])
    given: dict[str, list[Any]] = {
        side: [each for name, _, each in log if name == side] for side in ("a", "b")
    }
    assert given["a"] == given["b"]
    steps = [each["steps"] for each in given["a"] if "steps" in each]
    assert all(len(each) == 4 and len(each[0]) == 2 for each in steps)
    assert all(steps.count(each) == 1 for each in steps)  # other ones in each round
    (begun,) = (each for each in given["a"] if "room" in each)
    assert begun["room"] == 16 and [len(each) for each in begun["prompts"]] == [64, 64]


def test_a_prefill_is_a_prompt_of_its_own_in_each_round(log: list[tuple[str, str, Any]]) -> None:
    found = turns(log, a=0.5, b=9.0).measure(Work("prefill", 64, rounds=2), ["a"])
    assert {name for name, _, _ in log} == {"a"}
    lengths = [len(each["prompts"][0]) for _, order, each in log if order == "prefill"]
    assert lengths == [64] * 3
    assert found.rates("a").median == 128


def test_the_most_memory_and_the_work_while_waiting_are_noted(
    log: list[tuple[str, str, Any]],
) -> None:
    both = turns(log, a=1.0, b=1.0)
    both.measure(DECODE, ["a", "b"])
    assert both.uses["a"].anonymous == max(
        number for number, (name, _, _) in enumerate(log, 1) if name == "a"
    )
    assert both.uses["b"].peak == 7.0 and both.uses["b"].spun / both.uses["b"].waited == 0.25


def test_ratios_are_those_of_the_same_round() -> None:
    # Half as fast in every round, though the machine slowed down to a tenth meanwhile.
    found = Measured(DECODE, {"it": [2.0, 4.0, 20.0], "base": [1.0, 2.0, 10.0]}, [8.0, 4.0, 0.8])
    assert found.ratios("it", "base") == Middle(2, 2, 2)
    assert found.share("base", 4.0) == pytest.approx(0.5)  # of the read of the same round
    assert found.rates("base") == Middle(1.0, 0.2, 2.0)
    assert Middle.of([3.0]) == Middle(3, 3, 3)
    assert Middle.of([4.0, 1.0, 3.0]) == Middle(3, 1, 4)
    assert Middle.of([4.0, 1.0, 3.0, 2.0]) == Middle(2.5, 1.75, 3.25)
