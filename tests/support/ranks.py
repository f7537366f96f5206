"""Ranks as threads of one process, each with a process group of gloo over a store in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch.distributed as dist

Result = TypeVar("Result")
LIMIT = 60.0


@cache
def process_groups(size: int) -> tuple[Any, ...]:
    """A process group of gloo for each of ``size`` ranks, kept for the next test."""
    store = dist.HashStore()
    limit = timedelta(seconds=LIMIT)
    made = on_ranks(size, lambda rank: dist.ProcessGroupGloo(store, rank, size, limit))
    return tuple(made)


def on_ranks(size: int, function: Callable[[int], Result]) -> list[Result]:
    """Call ``function`` with each rank, all at once, and return what they return; raises what the
    first of them raised."""
    results: dict[int, Result] = {}
    errors: dict[int, BaseException] = {}

    def run(rank: int) -> None:
        try:
            results[rank] = function(rank)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    if errors:
        raise errors[min(errors)]
    assert len(results) == size, "a rank hangs"
    return [results[rank] for rank in range(size)]
