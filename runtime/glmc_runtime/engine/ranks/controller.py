"""Start the ranks of an artifact on this host, and make a machine of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace

from glmc_runtime.engine.assemble import Machine
from glmc_runtime.engine.ranks.channel import ChannelClosedError
from glmc_runtime.engine.ranks.launch import new_ends
from glmc_runtime.engine.ranks.remote import remote_machine
from glmc_runtime.engine.ranks.serve import Settings
from glmc_runtime.engine.ranks.watch import Watch
from glmc_runtime.loading.loader import Artifact


def start_ranks(
    artifact: Artifact,
    settings: Settings,
    progress: Callable[[int, int], object] | None = None,
) -> Machine:
    """Processes for all ranks, which load the artifact; raises what ends one of them.

    ``settings`` are those of rank 0; the ranks differ in nothing else.
    """
    logits = os.memfd_create("glmc logits")
    try:
        ends = [new_ends() for _ in range(settings.size)]
        watch = Watch(settings.size, ends, (logits,))
        try:
            try:
                for rank, each in enumerate(ends):
                    each.steps.send(json.dumps(replace(settings, rank=rank).to_json()).encode())
            except ChannelClosedError:
                raise watch.failure() from None
            ready = watch.wait_ready(progress)
            return remote_machine(artifact, watch, ends, logits, ready, settings.timing)
        except BaseException:
            watch.kill()
            for each in ends:
                each.steps.close()
            raise
    finally:
        os.close(logits)
