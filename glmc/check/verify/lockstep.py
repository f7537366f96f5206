"""The ranks of an artifact as threads of this process, each with a machine of its own.

What they tell each other goes through gloo, as it does between processes; nothing has to be started
or ended, and what a rank has computed can be looked at between two calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from glmc_runtime.collectives.group import Group
from glmc_runtime.engine.assemble import Machine, assemble
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.engine.ranks.member import group_of
from glmc_runtime.loading.loader import Artifact, load_artifact

Result = TypeVar("Result")
_PATIENCE = timedelta(seconds=120)
"""How long a rank waits for another: one that has failed does not come."""


class RankThreads:
    """A thread for each of several ranks, in which all of its work is done."""

    def __init__(self, threads: Sequence[ThreadPoolExecutor]) -> None:
        self._threads = threads

    def each(self, function: Callable[[int], Result]) -> list[Result]:
        """What ``function`` gives for each rank; all are called at once. Raises what the first to
        fail has raised: others may fail later, of waiting for it."""
        tasks = [thread.submit(function, rank) for rank, thread in enumerate(self._threads)]
        done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
        errors = [error for task in done if (error := task.exception()) is not None]
        if errors:
            raise errors[0]
        return [task.result() for task in tasks]


@contextmanager
def machines_of(
    path: Path, ranks: int, options: LoadOptions
) -> Iterator[tuple[RankThreads, list[tuple[Artifact, Machine]]]]:
    """The ranks of the artifact at ``path`` inside the block, each with what it has loaded."""

    def make(
        artifact: Artifact, options: LoadOptions, group: Group | None
    ) -> tuple[Artifact, Machine]:
        return artifact, assemble(artifact, options, group=group)

    with ranks_of(path, ranks, options, make) as made:
        yield made


@contextmanager
def ranks_of(
    path: Path,
    ranks: int,
    options: LoadOptions,
    make: Callable[[Artifact, LoadOptions, Group | None], Result],
) -> Iterator[tuple[RankThreads, list[Result]]]:
    """The ranks of the artifact at ``path`` inside the block, and what ``make`` makes of each."""
    threads_of_torch = torch.get_num_threads()
    with ExitStack() as stack:
        pools = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(ranks)]
        threads = RankThreads(pools)
        store: Any = getattr(dist, "HashStore")()  # noqa: B009 - torch does not export it

        def load(rank: int) -> Result:
            torch.set_num_threads(threads_of_torch)  # a thread has a number of its own
            artifact = load_artifact(path, verify_hashes=False, rank=rank)
            if ranks == 1:
                return make(artifact, options, None)
            gloo = dist.ProcessGroupGloo(store, rank, ranks, _PATIENCE)
            return make(artifact, options, group_of(artifact, gloo, rank, ranks))

        yield threads, threads.each(load)
