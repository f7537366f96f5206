"""Processes of ranks: they answer, or are gone when the time is up, and it is said who is."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from glmc_runtime.command.rank_processes import rank_environment, run_ranks

pytestmark = pytest.mark.long

ACTING = "tests.runtime.command.acting"


def wait_gone(pids: str) -> None:
    """A process that was killed needs a moment to go; nothing else may be waited for here."""
    there = []
    for pid in pids.split():
        with suppress(psutil.NoSuchProcess):
            there.append(psutil.Process(int(pid)))
    _, alive = psutil.wait_procs(there, timeout=10.0)
    left = [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    assert not left, f"still there: {left}"


def test_each_rank_answers_from_its_place() -> None:
    ended = run_ranks(f"{ACTING}:answer", 2, 60.0, {"OWN": "yes"}, number=3)
    assert not ended.problem
    assert ended.answers == {
        rank: {"size": 2, "number": 3, "RANK": str(rank), "WORLD_SIZE": "2", "OWN": "yes"}
        for rank in range(2)
    }


def test_a_rank_that_hangs_is_killed_with_its_children_in_time(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    started = time.monotonic()
    ended = run_ranks(f"{ACTING}:hang_in_one", 2, 2.0, pids=str(pids))
    assert time.monotonic() - started < 60.0
    assert ended.problem == "timed out after 2 s: no answer of rank 1"
    assert ended.answers == {0: "here"}
    wait_gone(pids.read_text(encoding="utf-8"))


def test_a_rank_that_is_stopped_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    ended = run_ranks(f"{ACTING}:stop_one", 1, 2.0, pids=str(pids))
    assert ended.problem == "timed out after 2 s: no answer of rank 0"
    wait_gone(pids.read_text(encoding="utf-8"))


def test_a_rank_that_fails_ends_the_others_and_is_heard() -> None:
    started = time.monotonic()
    ended = run_ranks(f"{ACTING}:fail_in_one", 2, 60.0)
    assert time.monotonic() - started < 50.0
    assert ended.problem == "rank 1 ended with status 1"
    assert ended.said[-1] == "ValueError: no such card"


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ("die", "rank 0 was ended by SIGKILL"),
        ("die_unusually", f"rank 0 was ended by signal {signal.SIGRTMIN + 1}"),
        ("leave", "rank 0 ended without an answer"),
    ],
)
def test_how_a_rank_ended_is_told(task: str, problem: str) -> None:
    assert run_ranks(f"{ACTING}:{task}", 1, 60.0).problem == problem


def test_a_rank_that_does_not_begin_is_told() -> None:
    ended = run_ranks("tests.runtime.command.never:task", 1, 60.0, begin=2.0)
    assert ended.problem == "not begun after 2 s: rank 0 still imports"


def test_variables_of_the_caller_stay() -> None:
    own = rank_environment({"OMP_NUM_THREADS": "7", "RANK": "5"}, 1, 2)
    assert (own["OMP_NUM_THREADS"], own["RANK"], own["GLOO_SOCKET_IFNAME"]) == ("7", "1", "lo")
