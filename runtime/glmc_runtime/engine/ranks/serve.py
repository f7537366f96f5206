"""A rank from its settings to its last step: artifact, group, machine, messages."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from glmc_runtime.engine.assemble import assemble
from glmc_runtime.engine.ranks.channel import Channel
from glmc_runtime.engine.ranks.follow import Follower
from glmc_runtime.engine.ranks.shared import SharedLogits, phases_of
from glmc_runtime.loading.loader import load_artifact

if TYPE_CHECKING:
    from glmc_runtime.engine.ranks.worker import Reporter


@dataclass(frozen=True)
class Settings:
    """What the controller tells each rank: the options of :func:`glmc_runtime.load`."""

    path: str
    rank: int
    size: int
    verify_hashes: bool
    emulate: bool | None
    device: str | None
    kv_blocks: int | None
    kv_memory_bytes: int | None
    timing: bool
    guard_steps: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def serve(
    data: dict[str, Any], channel: Channel, reporter: Reporter, shared: Sequence[int]
) -> None:
    """Load the artifact, say that the rank is ready, and follow messages until the last."""
    from glmc_runtime.engine.ranks.worker import Forwarder

    settings = Settings(**data)
    logger = logging.getLogger("glmc_runtime")
    logger.addHandler(Forwarder(reporter))
    logger.propagate = False
    artifact = load_artifact(settings.path, verify_hashes=settings.verify_hashes)
    machine = assemble(
        artifact,
        settings.emulate,
        settings.kv_blocks,
        settings.kv_memory_bytes,
        settings.timing,
        settings.device,
        settings.guard_steps,
    )
    logits = None
    if settings.rank == 0:
        logits = SharedLogits(artifact.manifest, artifact.plans, shared[0])
    follower = Follower(machine, phases_of(artifact.manifest), channel, logits)
    statistics = machine.statistics
    reporter.say(
        ready={
            "device": str(machine.device),
            "kv_blocks": machine.cache.allocator.count,
            "emulated": statistics.emulated,
            "interpreted": statistics.interpreted,
            "process": os.getpid(),
        }
    )
    follower.follow()
