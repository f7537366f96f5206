"""Counts of several processes in memory that they share."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from glmc_engines.core import counters
from glmc_engines.core.counters import Count, Counters, share_counters, shared_counts


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(counters.COUNTERS, raising=False)
    kept: list[int] = []
    monkeypatch.setattr(counters, "_keep", kept)
    monkeypatch.setenv(counters.COUNTERS, "")  # is set below, and put back after the test
    share_counters()
    yield
    for descriptor in kept:
        os.close(descriptor)


@pytest.mark.usefixtures("shared")
def test_counts_of_all_ranks_are_seen() -> None:
    first, second = Counters.of_rank(0), Counters.of_rank(1)
    first.add("steps")
    first.add("steps", 2)
    second.set("replays", 7, phase="decode", bucket="8")
    assert list(shared_counts()) == [
        Count(0, "steps", (), 3),
        Count(1, "replays", (("bucket", "8"), ("phase", "decode")), 7),
    ]


@pytest.mark.usefixtures("shared")
def test_a_rank_that_starts_again_begins_at_zero() -> None:
    Counters.of_rank(0).add("steps", 5)
    Counters.of_rank(0)
    assert list(shared_counts()) == []


@pytest.mark.usefixtures("shared")
def test_two_engines_of_one_process_don_t_write_over_each_other() -> None:
    first = Counters.of_rank(0)
    first.set("serves", 1)
    first.add("steps", 5)
    second = Counters.of_rank(0)
    second.set("serves", 1)
    second.set("replays", 2, phase="decode", bucket="1")
    first.add("steps", 2)
    second.add("steps", 4)
    assert (first.get("steps"), second.get("steps")) == (7, 4)
    assert list(shared_counts()) == [
        Count(0, "serves", (), 1),
        Count(0, "steps", (), 11),
        Count(0, "replays", (("bucket", "1"), ("phase", "decode")), 2),
    ]


OTHER_SERVER = """
from glmc_engines.core.counters import Counters, share_counters, shared_counts
share_counters()
Counters.of_rank(0).add("steps", 9)
print([count.value for count in shared_counts()])
"""


@pytest.mark.usefixtures("shared")
def test_a_server_that_another_s_process_starts_has_counts_of_its_own() -> None:
    own = Counters.of_rank(0)
    own.add("steps", 5)
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", OTHER_SERVER],
        check=True,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[9]\n"
    assert list(shared_counts()) == [Count(0, "steps", (), 5)]


def part_of_the_server() -> None:
    share_counters()
    Counters.of_rank(1).add("steps", 3)


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_process_of_the_server_shares_its_counts(method: str) -> None:
    Counters.of_rank(0).add("steps", 5)
    process = multiprocessing.get_context(method).Process(target=part_of_the_server)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert [count.value for count in shared_counts()] == [5, 3]


@pytest.mark.usefixtures("shared")
def test_a_rank_whose_process_was_killed_begins_at_zero() -> None:
    code = (
        "import os; from glmc_engines.core.counters import Counters; "
        "counters = Counters.of_rank(0); counters.add('steps', 4); os.kill(os.getpid(), 9)"
    )
    path = os.pathsep.join(sys.path)
    subprocess.run(
        [sys.executable, "-c", code], check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert list(shared_counts()) == [Count(0, "steps", (), 4)]
    own = Counters.of_rank(0)
    assert list(shared_counts()) == []
    own.add("steps")
    assert list(shared_counts()) == [Count(0, "steps", (), 1)]


@pytest.mark.usefixtures("shared")
def test_another_process_writes_to_the_same_memory() -> None:
    code = "from glmc_engines.core.counters import Counters; Counters.of_rank(3).add('steps', 4)"
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})
    assert list(shared_counts()) == [Count(3, "steps", (), 4)]


@pytest.mark.usefixtures("shared")
def test_counts_that_no_part_has_room_for_are_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(counters._LOG, "warning", lambda text, *of: lines.append(text % of))
    own = Counters.of_rank(2)
    for bucket in range(258):
        own.add("replays", bucket=str(bucket))
        assert len(lines) == (bucket >= 255)
    own.add("replays", bucket="255")
    (line,) = lines
    assert "rank 2" in line and "255 counts" in line and "replays" in line
    assert own.get("replays") == 259 and len(list(shared_counts())) == 255


def test_counts_stay_in_the_process_where_none_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(counters.COUNTERS, "/proc/1/fd/no-such-file")
    own = Counters.of_rank(0)
    own.set("replays", 2, phase="decode", bucket="1")
    own.set("replays", 3, phase="prefill", bucket="16")
    assert own.get("replays") == 5
    assert [count.value for count in own.counts()] == [2, 3]
    assert own.get("replays", phase="decode") == 2
    assert list(shared_counts()) == []


@pytest.mark.usefixtures("shared")
def test_the_memory_has_no_name_in_any_folder() -> None:
    assert os.readlink(os.environ["GLMC_ENGINE_COUNTERS"]).startswith("/memfd:")
    before = os.environ["GLMC_ENGINE_COUNTERS"]
    share_counters()
    assert os.environ["GLMC_ENGINE_COUNTERS"] == before
