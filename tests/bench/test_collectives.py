"""The benchmark of collectives on threads, with few sizes: it says nothing of speed."""

from __future__ import annotations

import json

import pytest
import torch

from bench import collectives
from glmc_runtime.collectives import tune
from glmc_runtime.format.algorithms import of_class
from glmc_runtime.format.collectives import ONE_HOST
from tests.runtime.collectives.conftest import in_groups

CPU = torch.device("cpu")


@pytest.mark.parametrize("memory", [True, False])
def test_each_size_has_every_algorithm_and_the_choice(
    memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collectives, "SIZES", (1 << 10, 1 << 14))
    monkeypatch.setattr(tune, "_SIZES", (1 << 10, 1 << 12, 1 << 14))
    monkeypatch.setattr(tune.Wanted, "__init__", quick(tune.Wanted.__init__))
    text, _ = in_groups(
        2, lambda group: collectives.job(group, CPU, 0.1, "bfloat16", memory=memory)
    )
    lines = list(collectives.report(2, "bfloat16", ONE_HOST, json.loads(text)))
    head, first, last = (line for line in lines if line.startswith("| "))
    shown = {name for name in of_class("any") if f" {name} " in head}
    assert shown == {name for name in of_class("any") if memory or not name.endswith("_shot")}
    assert first.startswith("| 1 KiB |") and last.startswith("| 16 KiB |")
    assert all(line.count(" / ") == len(shown) for line in (first, last))
    assert "%" in first and any(line.startswith("Predicted from messages of") for line in lines)
    assert sum("Behind the best that may compete" in line for line in lines) == 2


def quick(made: object) -> object:
    """Tables in a tenth of a second."""

    def init(self: tune.Wanted, numerics: str, memory: bool = True) -> None:
        made(self, numerics, seconds=0.1, memory=memory)  # type: ignore[operator]

    return init


def test_behind_is_what_is_lost_beside_the_best_of_the_class() -> None:
    rounds = {
        ("ring", 8): [1.0, 1.0],
        ("butterfly", 8): [2.0, 4.0],
        ("one_shot", 8): [9.0, 9.0],
        ("choice", 8): [3.0, 6.0],
        ("choice, any order", 8): [1.0, 1.0],
    }
    names = ("ring", "butterfly", "one_shot")
    assert collectives.best_of(8, "tree", names, rounds) == "butterfly"
    assert collectives.behind(8, "tree", names, rounds) == pytest.approx(0.5)
    assert collectives.behind(8, "any", names, rounds) == pytest.approx(0.0)
