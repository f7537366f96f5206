"""A rank of a controller, from its settings to its last step: artifact, group, machine, steps.

Another task than to follow steps begins as this one does: with :func:`joined`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any

import torch
import torch.distributed as dist

from glmc_runtime.collectives.group import Group
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
from glmc_runtime.loading.loader import Artifact, Progress, load_artifact
from glmc_runtime.replay.statistics import Statistics

TASK = f"{__name__}:serve"
_SAID_EACH = 0.1  # seconds


@dataclass(frozen=True)
class Settings:
    """What the controller tells a rank; ``identity`` is that of the controller's artifact.
    ``task`` is the function, ``module:name``, that takes the place of :func:`serve`, and ``work``
    what it alone needs to know."""

    path: str
    rank: int
    size: int
    verify_hashes: bool
    identity: dict[str, str]
    options: LoadOptions
    task: str = TASK
    work: Mapping[str, Any] = field(default_factory=dict)

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
    logits, meeting = shared
    artifact, group = joined(settings, reporter, meeting)
    machine = assemble(artifact, settings.options, group=group)
    room = None
    if settings.rank == 0:
        room = SharedLogits(artifact.manifest, artifact.plans, logits)
    follower = Follower(machine, phases_of(artifact.manifest), channel, room)
    blocks = machine.cache.allocator.count
    say_ready(reporter, machine.device, machine.statistics, kv_blocks=blocks)
    follower.follow()


def joined(settings: Settings, reporter: Reporter, meeting: int) -> tuple[Artifact, Group]:
    """The artifact as this rank has it, and the group of all ranks, which meet through the file of
    the descriptor ``meeting``."""
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
    store = dist.FileStore(f"/proc/self/fd/{meeting}", size)  # type: ignore[attr-defined]
    backend = backend_for(artifact, device, options)
    return artifact, group_of(artifact, join(store, rank, size, backend), rank, size)


def say_ready(
    reporter: Reporter, device: torch.device, statistics: Statistics, **more: object
) -> None:
    """Tell the controller that the rank has all that it needs."""
    reporter.say(
        ready={
            "device": str(device),
            "emulated": statistics.emulated,
            "interpreted": statistics.interpreted,
            "process": os.getpid(),
            **more,
        }
    )


def _told(reporter: Reporter) -> Progress:
    told = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal told
        now = monotonic()
        if done == total or now - told > _SAID_EACH:
            told = now
            reporter.say(progress=[done, total])

    return progress
