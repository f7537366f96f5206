"""Start the ranks of an artifact on this host, and make a machine of those that follow steps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from glmc_runtime.engine.assemble import Machine
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.engine.ranks.channel import ChannelClosedError
from glmc_runtime.engine.ranks.launch import Ends, new_ends
from glmc_runtime.engine.ranks.member import identity_of
from glmc_runtime.engine.ranks.remote import remote_machine
from glmc_runtime.engine.ranks.serve import TASK, Settings
from glmc_runtime.engine.ranks.watch import Watch
from glmc_runtime.engine.timeline import in_other_processes
from glmc_runtime.errors import FileError, GuardError
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.loading.weights import require_weights

MOST_RANKS = 64
"""As many processes as are started on this host: an artifact is no reason for thousands."""


@dataclass(frozen=True)
class Started:
    """Ranks that are ready, with what each has said of itself. ``logits`` is a descriptor of memory
    that all of them have."""

    watch: Watch
    ends: list[Ends]
    logits: int
    ready: list[dict[str, Any]]


def start_ranks(
    artifact: Artifact,
    options: LoadOptions,
    *,
    verify_hashes: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> Machine:
    """Processes for all ranks of an artifact, which load it; raises what ends one of them."""
    if options.profile_ranges:
        raise in_other_processes()
    with started(artifact, options, TASK, {}, verify_hashes, progress) as ranks:
        return remote_machine(
            artifact, ranks.watch, ranks.ends, ranks.logits, ranks.ready, options.timing
        )


@contextmanager
def started(
    artifact: Artifact,
    options: LoadOptions,
    task: str,
    work: Mapping[str, Any],
    verify_hashes: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> Iterator[Started]:
    """Processes for all ranks of an artifact, which are about ``task`` as :class:`Settings` has it;
    raises what ends one of them before it is ready. The ranks outlive the block, unless it raises;
    ``logits`` does not."""
    if not hasattr(os, "memfd_create"):
        raise GuardError("an artifact of several ranks needs Linux", remedy="use torchrun")
    size = artifact.manifest.ranks.count
    if size > MOST_RANKS:
        raise GuardError(
            "the artifact has more ranks than are started on one host",
            expected=f"at most {MOST_RANKS}",
            found=str(size),
            remedy="run torchrun on its hosts",
        )
    require_weights(artifact.manifest)
    identity = identity_of(artifact.manifest)
    path = str(artifact.path.absolute())
    settings = Settings(path, 0, size, verify_hashes, identity, options, task, work)
    shared: list[int] = []
    ends: list[Ends] = []
    try:
        try:
            # Memory of the logits, and the file through which ranks meet: neither has a name.
            shared += [os.memfd_create("glmc logits")]
            shared += [os.memfd_create("glmc ranks")]
            ends += (new_ends() for _ in range(size))
        except OSError as error:
            for each in ends:
                each.close()
            raise FileError(
                f"channels to {size} ranks can't be opened: {error.strerror or error}",
                remedy="see the limit of open files (ulimit -n)",
            ) from error
        watch = Watch(size, ends, tuple(shared))
        try:
            try:
                for rank, each in enumerate(ends):
                    each.steps.send(json.dumps(replace(settings, rank=rank).to_json()).encode())
            except ChannelClosedError:
                raise watch.failure() from None
            yield Started(watch, ends, shared[0], watch.wait_ready(progress))
        except BaseException:
            watch.kill()
            for each in ends:
                each.steps.close()
            raise
    finally:
        for descriptor in shared:
            os.close(descriptor)
