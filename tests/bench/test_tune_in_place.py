"""bench.tune_in_place keeps what makes the whole step faster, and is right."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import tune_in_place
from bench.tunable import Configuration, Tunable
from bench.tune_in_place import tune

CPU = torch.device("cpu")


class FakeStep:
    """Two layers of two products and a norm; a step takes what its configurations say."""

    def __init__(self) -> None:
        kinds = ("cuda.linear", "q_proj"), ("cuda.rms_norm", "norm"), ("cuda.linear", "down_proj")
        self.calls = tuple(
            SimpleNamespace(function=function, module=f"layers.{layer}.{module}", layer=layer)
            for layer in range(2)
            for function, module in kinds
        )
        weights = {"q_proj": torch.empty(8, 4), "norm": torch.empty(4), "down_proj": None}
        self.arguments = [{"weight": weights[call.module.split(".")[2]]} for call in self.calls]
        for place in (2, 5):
            self.arguments[place] = {"weight": torch.empty(4, 16)}
        self.thunks = tuple(self.bind({"ms": 10.0}) for _ in self.calls)

    @staticmethod
    def bind(configuration: Configuration) -> Callable[[], Any]:
        return partial(dict, **configuration)

    def changed(
        self, thunks: Sequence[Callable[[], Any]], stage: Any, configuration: Configuration
    ) -> tuple[Callable[[], Any], ...]:
        if configuration.get("fails"):
            raise RuntimeError("out of resources")
        found = list(thunks)
        for place in stage.positions:
            found[place] = self.bind(configuration)
        return tuple(found)

    def time(self, thunks: Sequence[Callable[[], Any]], repeats: int = 3) -> float:
        return float(sum(thunk()["ms"] for thunk in thunks))


def known(**candidates: list[Configuration]) -> dict[tuple[str, str], Tunable]:
    keys = {"q": "8x4", "down": "4x16"}
    return {
        ("linear", keys[name]): Tunable(
            kernel="linear",
            key=keys[name],
            rows=16,
            dtype=torch.bfloat16,
            bytes=1,
            make=lambda device, generator: {},
            reference=lambda arguments: {},
            candidates=lambda found=found: found,
        )
        for name, found in candidates.items()
    }


@pytest.fixture
def right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_in_place.tuned, "configuration", lambda *key: {"way": "now"})
    monkeypatch.setattr(
        tune_in_place,
        "is_right",
        lambda tunable, configuration, *more: "off" if configuration.get("wrong") else "",
    )


@pytest.mark.usefixtures("right")
def test_the_fastest_step_that_is_right_wins() -> None:
    q = [{"ms": 9.0}, {"ms": 5.0, "wrong": True}, {"ms": 1.0, "fails": True}, {"ms": 7.0}]
    down = [{"ms": 10.5}, {"ms": 9.999}]
    assert tune(FakeStep(), known(q=q, down=down), CPU, time.monotonic() + 60) == {
        ("linear", "8x4"): {"ms": 7.0}
    }


@pytest.mark.usefixtures("right")
def test_later_kinds_are_tried_on_top_of_what_was_chosen(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = tune(FakeStep(), known(q=[{"ms": 4.0}], down=[{"ms": 6.0}]), CPU, time.monotonic() + 60)
    assert found == {("linear", "8x4"): {"ms": 4.0}, ("linear", "4x16"): {"ms": 6.0}}
    assert "the step: 60.0000 ms, now 40.0000" in capsys.readouterr().out


@pytest.mark.usefixtures("right")
def test_without_time_and_for_unknown_weights_nothing_changes() -> None:
    assert tune(FakeStep(), known(q=[{"ms": 4.0}]), CPU, time.monotonic() - 1) == {}
    assert tune(FakeStep(), {}, CPU, time.monotonic() + 60) == {}
