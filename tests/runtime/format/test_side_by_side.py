"""Files in threads: all of them, told about in one thread, and ended by whoever raises."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from glmc_runtime.format.side_by_side import side_by_side

Told = Callable[[int], object]


@pytest.mark.parametrize("threads", [1, 3, None])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_all_are_done_and_told_here(threads: int | None, count: int) -> None:
    done: list[int] = []
    told: list[tuple[int, threading.Thread]] = []

    def work(item: int, tell: Told) -> None:
        tell(item)
        done.append(item)
        tell(item)

    side_by_side(
        range(count), work, lambda n: told.append((n, threading.current_thread())), threads
    )
    assert sorted(done) == list(range(count))
    assert sorted(number for number, _ in told) == sorted(2 * list(range(count)))
    assert {thread for _, thread in told} <= {threading.current_thread()}


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_ends_the_others(threads: int) -> None:
    begun: list[int] = []

    def work(item: int, tell: Told) -> None:
        begun.append(item)
        if item == 1:
            raise OSError("no such file")
        for _ in range(1000):
            tell(1)

    with pytest.raises(OSError, match="no such file"):
        side_by_side(range(100), work, lambda number: None, threads)
    assert len(begun) < 100


def test_whoever_is_told_may_end_it() -> None:
    begun: list[int] = []

    def work(item: int, tell: Told) -> None:
        begun.append(item)
        for _ in range(1000):
            tell(1)

    def told(number: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side(range(100), work, told, 2)
    assert len(begun) < 100


def test_they_are_at_work_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=20)
    side_by_side(range(2), lambda item, tell: together.wait(), lambda number: None, 2)
