"""A rank of a controller, from its settings to its last step: artifact, group, machine, steps."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

import torch.distributed as dist

from glmc_runtime.engine.assemble import assemble
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.engine.ranks.channel import Channel
from glmc_runtime.engine.ranks.follow import Follower
from glmc_runtime.engine.ranks.member import (
    backend_for,
    group_of,
    identity_of,
    join,
    require_same,
    take_card,
)
from glmc_runtime.engine.ranks.reporter import Forwarder, Reporter
from glmc_runtime.engine.ranks.shared import SharedLogits, phases_of
from glmc_runtime.loading.loader import Progress, load_artifact

_SAID_EACH = 0.1  # seconds


@dataclass(frozen=True)
class Settings:
    """What the controller tells a rank; ``identity`` is that of the controller's artifact."""

    path: str
    rank: int
    size: int
    verify_hashes: bool
    identity: dict[str, str]
    options: LoadOptions

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Settings:
        return cls(**{**data, "options": LoadOptions(**data["options"])})


def serve(
    data: dict[str, Any], channel: Channel, reporter: Reporter, shared: Sequence[int]
) -> None:
    """Load the artifact, say that the rank is ready, and follow messages until the last.

    ``shared`` are descriptors of the memory of logits and of the file through which ranks meet.
    """
    settings = Settings.from_json(data)
    rank, size, options = settings.rank, settings.size, settings.options
    logging.captureWarnings(True)
    for name in ("glmc_runtime", "py.warnings"):
        logger = logging.getLogger(name)
        logger.addHandler(Forwarder(reporter))
        logger.propagate = False
    artifact = load_artifact(
        settings.path,
        verify_hashes=settings.verify_hashes,
        progress=_told(reporter),
        rank=rank,
    )
    require_same(rank, identity_of(artifact.manifest), settings.identity)
    device = take_card(artifact, rank, options)
    logits, meeting = shared
    store = dist.FileStore(f"/proc/self/fd/{meeting}", size)  # type: ignore[attr-defined]
    backend = backend_for(artifact, device, options)
    group = group_of(artifact, join(store, rank, size, backend), rank, size)
    machine = assemble(artifact, options, group=group)
    room = None
    if rank == 0:
        room = SharedLogits(artifact.manifest, artifact.plans, logits)
    follower = Follower(machine, phases_of(artifact.manifest), channel, room)
    reporter.say(
        ready={
            "device": str(machine.device),
            "kv_blocks": machine.cache.allocator.count,
            "emulated": machine.statistics.emulated,
            "interpreted": machine.statistics.interpreted,
            "process": os.getpid(),
        }
    )
    follower.follow()


def _told(reporter: Reporter) -> Progress:
    told = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal told
        now = monotonic()
        if done == total or now - told > _SAID_EACH:
            told = now
            reporter.say(progress=[done, total])

    return progress
