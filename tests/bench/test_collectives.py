"""The benchmark of collectives on threads, with few sizes: it says nothing of speed."""

from __future__ import annotations

import json

import pytest
import torch

from bench import collectives
from bench.gpu import peer_values
from glmc_runtime.collectives import tune
from glmc_runtime.format.algorithms import of_class
from glmc_runtime.format.collectives import ONE_HOST
from tests.runtime.collectives.conftest import in_groups
from tests.support.peers import peers_by_the_library

pytestmark = pytest.mark.long

CPU = torch.device("cpu")


@pytest.mark.parametrize("memory", [True, False])
def test_each_size_has_every_algorithm_and_the_choice(
    memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collectives, "SIZES", (1 << 10, 1 << 14))
    monkeypatch.setattr(tune, "_SIZES", (1 << 10, 1 << 12, 1 << 14))
    monkeypatch.setattr(tune.Wanted, "__init__", quick(tune.Wanted.__init__))
    text, _ = in_groups(
        2, lambda group: collectives.job(group, CPU, 0.1, "bfloat16", memory, ("tree", "any"))
    )
    lines = list(collectives.report(2, "bfloat16", ONE_HOST, json.loads(text)))
    head, first, last, *rates = (line for line in lines if line.startswith("| "))
    shown = {name for name in of_class("any") if f" {name} " in head}
    on_hosts = {name for name in of_class("any") if not name.startswith("peer_")}
    assert shown == {name for name in on_hosts if memory or not name.endswith("_shot")}
    assert [line.count("|") for line in rates] == [len(shown) + 4] * 3
    assert first.startswith("| 1 KiB |") and last.startswith("| 16 KiB |")
    assert all(line.count(" / ") == len(shown) for line in (first, last))
    assert "%" in first and any(line.startswith("Predicted from messages of") for line in lines)
    assert sum("Behind the best that may compete" in line for line in lines) == 2
    assert sum("; at most 10%: " in line for line in lines) == 2
    fastest = [line.split(":")[0] for line in lines if line.startswith("* Fastest of")]
    kinds = ["messages", "memory", "all"] if memory else ["messages", "all"]
    assert fastest == [f"* Fastest of {kind}" for kind in kinds]
    assert not any("in device graphs" in line or "runs are the same" in line for line in lines)


def test_cards_have_kernels_over_the_memory_of_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the job but the kernels, the graphs and the proof of values."""
    proved: list[int] = []
    peers_by_the_library(monkeypatch)
    monkeypatch.setattr(peer_values, "require_rank_order", lambda group, _: proved.append(1))
    monkeypatch.setattr(collectives, "SIZES", (1 << 10, 1 << 14))
    monkeypatch.setattr(tune, "_SIZES", (1 << 10, 1 << 12, 1 << 14))
    monkeypatch.setattr(tune, "_media", lambda *_: {"messages", "peers"})
    monkeypatch.setattr(tune.Wanted, "__init__", quick(tune.Wanted.__init__))
    orders = ("rank_order", "any")
    text, _ = in_groups(2, lambda group: collectives.job(group, CPU, 0.1, "bfloat16", True, orders))
    other, _ = in_groups(2, lambda group: collectives.table_job(group, CPU, True, orders))
    result = json.loads(text) | {"graphs": ["library", "peer_one_shot"]}
    others = (result["tables"], json.loads(other))
    lines = list(collectives.report(2, "bfloat16", ONE_HOST, result, 0.05, others))
    assert len(proved) == 2
    assert lines[0].endswith("in device graphs: library, peer_one_shot")
    head = next(line for line in lines if line.startswith("| "))
    assert " peer_one_shot | peer_two_shot | choice | choice, any order |" in head
    assert any(line.startswith("* Fastest of peers: peer_") for line in lines)
    assert any(" and peers of " in line for line in lines if line.startswith("Predicted"))
    assert sum("; at most 5%: " in line for line in lines) == 2
    assert sum("The choices of 3 runs are the same, class" in line for line in lines) == 2


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


@pytest.mark.parametrize(
    ("words", "numerics", "memory", "runs"),
    [
        (["--backend", "nccl", "--runs", "3"], ["rank_order", "any"], True, 3),
        (["--backend", "nccl", "--messages"], ["any"], False, 1),
        (["--messages"], ["tree", "any"], False, 1),
    ],
)
def test_what_is_asked_of_the_ranks(
    words: list[str],
    numerics: list[str],
    memory: bool,
    runs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, dict[str, object]]] = []

    def run_job(job: str, options: dict[str, object], **more: object) -> str:
        asked.append((job, options | more))
        return "{}"

    monkeypatch.setattr(collectives, "run_job", run_job)
    monkeypatch.setattr(collectives, "report", lambda *_: ["a line"])
    monkeypatch.setattr("sys.argv", ["collectives", "--ranks", "4,8", *words])
    assert collectives.main() == 0
    assert [options["ranks"] for _, options in asked] == [4] * runs + [8] * runs
    jobs = [job.rpartition(":")[2] for job, _ in asked]
    assert jobs == 2 * ["job", *["table_job"] * (runs - 1)]
    assert all((one["numerics"], one["memory"]) == (numerics, memory) for _, one in asked)


def test_device_graphs_are_asked_for_over_nccl_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["collectives", "--captured-messages"])
    with pytest.raises(SystemExit):
        collectives.main()
    assert "device graphs over nccl alone" in capsys.readouterr().err


def test_fewer_cards_than_ranks_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("sys.argv", ["collectives", "--backend", "nccl", "--ranks", "2"])
    assert collectives.main() == 1
    assert "2 ranks over nccl need a card each" in capsys.readouterr().err
