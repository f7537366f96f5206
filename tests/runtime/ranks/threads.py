"""A session over ranks that are threads of this process; messages are those between processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from glmc_runtime.engine.assemble import Machine, assemble
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.engine.ranks.channel import Channel
from glmc_runtime.engine.ranks.follow import Follower
from glmc_runtime.engine.ranks.launch import new_ends
from glmc_runtime.engine.ranks.member import group_of
from glmc_runtime.engine.ranks.remote import remote_machine
from glmc_runtime.engine.ranks.shared import SharedLogits, phases_of
from glmc_runtime.engine.ranks.watch import Watch
from glmc_runtime.errors import RankError
from glmc_runtime.generate.session import Session
from glmc_runtime.loading.loader import load_artifact
from tests.support.ranks import LIMIT, on_ranks, process_groups


class Watched:
    """As a watch over ranks that are there until they are killed."""

    def __init__(self) -> None:
        self.over = self.stopped = False

    def kill(self) -> None:
        self.over = True

    def failure(self) -> RankError:
        return RankError("killed")

    def stop(self, ask: Callable[[], None]) -> None:
        if not self.stopped and not self.over:
            self.stopped = True
            ask()

    def join(self) -> None:
        pass


@contextmanager
def session_of_threads(path: Path, options: LoadOptions) -> Iterator[Session]:
    """The ranks have ended when the block has."""
    first = load_artifact(path, verify_hashes=False, rank=None)
    size = first.manifest.ranks.count
    groups, ends = process_groups(size), [new_ends() for _ in range(size)]
    descriptor = os.memfd_create("logits")

    def machine_of(rank: int) -> Machine:
        artifact = load_artifact(path, verify_hashes=False, rank=rank)
        return assemble(artifact, options, group=group_of(artifact, groups[rank], rank, size))

    def follow(rank: int) -> None:
        room = SharedLogits(first.manifest, first.plans, descriptor) if rank == 0 else None
        channel = Channel(ends[rank].rank_steps)
        Follower(machines[rank], phases_of(first.manifest), channel, room).follow()

    machines = on_ranks(size, machine_of)
    threads = [threading.Thread(target=follow, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    ready = [
        {
            "device": str(machine.device),
            "emulated": machine.statistics.emulated,
            "interpreted": machine.statistics.interpreted,
            "kv_blocks": machine.cache.allocator.count,
        }
        for machine in machines
    ]
    watch = cast(Watch, Watched())
    with Session(first, remote_machine(first, watch, ends, descriptor, ready, False)) as session:
        yield session
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    os.close(descriptor)
    for each in ends:
        each.close()
