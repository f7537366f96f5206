"""Timelines of several ranks: all calls of each on one clock, one timeline at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.errors import RequestError
from tests.runtime.ranks.threads import session_of_threads

OPTIONS = LoadOptions(kv_blocks=64)


def events_of(file: Path) -> list[dict[str, Any]]:
    return [row for row in json.loads(file.read_text())["traceEvents"] if row["ph"] == "X"]


def test_each_rank_has_all_calls_of_all_steps(ranks_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    with session_of_threads(ranks_path, OPTIONS) as session:
        untimed = session.generate([[7, 3, 9]], max_new_tokens=3, ignore_eos=True)
        with session.timeline(file):
            timed = session.generate([[7, 3, 9]], max_new_tokens=3, ignore_eos=True)
        assert timed == untimed
        plans = {plan.name: plan for plan in session.artifact.plans.values()}
    events = events_of(file)
    for rank in range(2):
        mine = [event["args"] for event in events if event["args"]["rank"] == rank]
        phases = [args["phase"] for args in mine if "replayed" in args]
        assert phases == ["prefill", "decode", "decode"]
        for number, phase in enumerate(phases):
            calls = [args for args in mine if args["step"] == number and "call" in args]
            assert [args["node"] for args in calls if args["call"] is not None] == [
                call.node for call in plans[phase].calls
            ]
    named = [args["function"] for args in (event["args"] for event in events) if "function" in args]
    assert any(name.startswith("collective.") for name in named)
    assert json.loads(file.read_text())["glmc"]["ranks"] == 2


def test_ranks_meet_in_a_collective(ranks_path: Path, tmp_path: Path) -> None:
    """By one clock: a rank is not done before the other one has begun."""
    file = tmp_path / "t.json"
    with session_of_threads(ranks_path, OPTIONS) as session, session.timeline(file):
        session.generate([[7, 3, 9]], max_new_tokens=4, ignore_eos=True)
    met: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events_of(file):
        args = event["args"]
        if str(args.get("function")).startswith("collective."):
            times = event["ts"], event["ts"] + event["dur"]
            met.setdefault((args["step"], args["call"]), []).append(times)
    assert len(met) >= 4
    for both in met.values():
        (first, first_end), (second, second_end) = both
        assert max(first, second) < min(first_end, second_end)


def test_one_timeline_at_a_time(ranks_path: Path, tmp_path: Path) -> None:
    with session_of_threads(ranks_path, OPTIONS) as session:
        with session.timeline(tmp_path / "a.json"):
            second = session.timeline(tmp_path / "b.json")
            with pytest.raises(RequestError, match="is being written"), second:
                pass
            session.generate([[1]], max_new_tokens=1)
        with session.timeline(tmp_path / "c.json"):
            pass
    assert events_of(tmp_path / "a.json") and not events_of(tmp_path / "c.json")


def test_ranks_on_cards_are_refused(ranks_path: Path, tmp_path: Path) -> None:
    with session_of_threads(ranks_path, OPTIONS) as session:
        session._machine.times._devices = ["cpu", "cuda:1"]  # type: ignore[union-attr]
        refused = session.timeline(tmp_path / "t.json")
        with pytest.raises(RequestError, match="these are on cards") as caught, refused:
            raise AssertionError("the body ran")
    assert caught.value.found == "cuda:1"
