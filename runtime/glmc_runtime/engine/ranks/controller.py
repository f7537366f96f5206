"""Start the ranks of an artifact on this host, and make a machine of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace

from glmc_runtime.engine.assemble import Machine
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.engine.ranks.channel import ChannelClosedError
from glmc_runtime.engine.ranks.launch import new_ends
from glmc_runtime.engine.ranks.member import identity_of
from glmc_runtime.engine.ranks.remote import remote_machine
from glmc_runtime.engine.ranks.serve import Settings
from glmc_runtime.engine.ranks.watch import Watch
from glmc_runtime.errors import GuardError, RequestError
from glmc_runtime.loading.loader import Artifact


def start_ranks(
    artifact: Artifact,
    options: LoadOptions,
    *,
    verify_hashes: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> Machine:
    """Processes for all ranks of an artifact, which load it; raises what ends one of them."""
    if options.profile_ranges:
        raise RequestError(
            "the calls of an artifact of several ranks are in other processes than the profiler",
            remedy="run 'torchrun --nproc-per-node N', where rank 0 profiles its own calls",
        )
    if not hasattr(os, "memfd_create"):
        raise GuardError("an artifact of several ranks needs Linux", remedy="use torchrun")
    size = artifact.manifest.ranks.count
    identity = identity_of(artifact.manifest)
    path = str(artifact.path.absolute())
    settings = Settings(path, 0, size, verify_hashes, identity, options)
    # Memory of the logits, and the file through which ranks meet: neither has a name.
    shared = (os.memfd_create("glmc logits"), os.memfd_create("glmc ranks"))
    try:
        ends = [new_ends() for _ in range(size)]
        watch = Watch(size, ends, shared)
        try:
            try:
                for rank, each in enumerate(ends):
                    each.steps.send(json.dumps(replace(settings, rank=rank).to_json()).encode())
            except ChannelClosedError:
                raise watch.failure() from None
            ready = watch.wait_ready(progress)
            return remote_machine(artifact, watch, ends, shared[0], ready, options.timing)
        except BaseException:
            watch.kill()
            for each in ends:
                each.steps.close()
            raise
    finally:
        for descriptor in shared:
            os.close(descriptor)
