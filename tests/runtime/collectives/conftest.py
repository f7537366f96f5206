from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from glmc_runtime.collectives.group import Group
from glmc_runtime.format.collectives import AlgorithmTable
from tests.support.ranks import on_ranks, process_groups

Result = TypeVar("Result")


def in_groups(
    size: int, function: Callable[[Group], Result], table: AlgorithmTable | None = None
) -> list[Result]:
    """What ``function`` returns on each rank of a group of ``size``."""
    made = process_groups(size)
    return on_ranks(size, lambda rank: function(Group(rank, size, made[rank], table)))
