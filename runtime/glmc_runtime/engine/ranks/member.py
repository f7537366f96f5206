"""One rank of a group: its card, the group that it joins, and what all of them have alike."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from glmc_runtime.collectives.agreement import agree
from glmc_runtime.collectives.group import Group
from glmc_runtime.engine.loaded import vendor_of
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.errors import GuardError, RankError, RequestError
from glmc_runtime.format.collectives import COLLECTIVES, default_table, tree_only
from glmc_runtime.format.collectives_json import read_table, table_digest
from glmc_runtime.format.manifest import Manifest, manifest_to_json
from glmc_runtime.loading.guards import device_for
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.package.constants import __version__

ProcessGroup = Any  # torch.distributed's, whose class torch does not export
BACKENDS = ("gloo", "nccl")
# Ranks wait for each other while one loads or a user thinks; what ends a wait is the end of a rank.
_PATIENCE = timedelta(days=30)


def identity_of(manifest: Manifest) -> dict[str, str]:
    """What must be the same on all ranks, by name. The hash of the manifest is over those of all
    files, plans among them."""
    text = json.dumps(manifest_to_json(manifest), sort_keys=True)
    return {
        "artifact": hashlib.sha256(text.encode()).hexdigest(),
        "glmc-runtime": __version__,
        "torch": torch.__version__,
    }


def require_same(rank: int, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raise :class:`RankError` where a rank has not what its controller has."""
    names = [name for name in expected if found.get(name) != expected[name]]
    if names:
        raise RankError(
            f"rank {rank} has another {' and another '.join(names)} than its controller",
            expected=", ".join(f"{name} {expected[name]}" for name in names),
            found=", ".join(f"{name} {found.get(name)}" for name in names),
            remedy="load again, once nobody writes the artifact or installs packages",
        )


def own_device(artifact: Artifact, options: LoadOptions) -> torch.device:
    """Where the artifact runs in this process."""
    guards = artifact.manifest.guards
    return device_for(guards, vendor_of(artifact, options.emulate), options.device)


def take_card(artifact: Artifact, local_rank: int, options: LoadOptions) -> torch.device:
    """Make the card of a rank current: that with its number on this host. Where gloo is asked for
    by name, ranks share cards in turn. Raises :class:`GuardError` for a rank without one."""
    device = own_device(artifact, options)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        number = local_rank % count if options.backend == "gloo" else local_rank
        if number >= count:
            raise GuardError(
                "the rank has no card",
                expected=f"{local_rank + 1} cards or more",
                found=f"{count}",
                remedy="make more cards visible, compile for fewer ranks, or let ranks share "
                "cards with backend='gloo'",
            )
        torch.cuda.set_device(number)
    return device


def backend_for(artifact: Artifact, device: torch.device, options: LoadOptions) -> str:
    """The backend of the ranks' group, unless options name one: gloo on host memory and with the
    vendor's emulator; on a card nccl, which is the name of BKCL as well."""
    vendor = vendor_of(artifact, options.emulate)
    emulated = vendor is not None and vendor.emulated
    usual = "nccl" if device.type == "cuda" and not emulated else "gloo"
    return options.backend or usual


def join(store: Any, rank: int, size: int, backend: str) -> ProcessGroup:
    """Join the process group of all ranks: through a ``store`` of torch.distributed or, where that
    is None, as the environment says."""
    if backend not in BACKENDS:
        raise RequestError(
            "there is no such backend", expected=" or ".join(BACKENDS), found=backend
        )
    place: dict[str, Any] = {} if store is None else {"store": store}
    try:
        dist.init_process_group(backend, rank=rank, world_size=size, timeout=_PATIENCE, **place)
    except (RuntimeError, ValueError) as error:
        raise RankError(
            f"rank {rank} can't join the group of {size}",
            found=next(iter(str(error).splitlines()), ""),
            remedy="see that no rank has ended, and that ranks reach each other",
        ) from error
    return dist.group.WORLD


def group_of(artifact: Artifact, process_group: ProcessGroup, rank: int, size: int) -> Group:
    """The group of an artifact's ranks, with the artifact's table of algorithms; a collective call.

    Raises :class:`RankError` where the group has another size, or a rank has another artifact,
    table or version than the others.
    """
    count = artifact.manifest.ranks.count
    if size != count:
        raise wrong_size(size, count)
    if COLLECTIVES in artifact.files:
        table = read_table(artifact.files.take(COLLECTIVES))
    else:
        table = default_table(artifact.manifest.guards.target, size)
    if artifact.manifest.deterministic is not None:
        table = tree_only(table)
    group = Group(rank, size, process_group, table)
    mine = {**identity_of(artifact.manifest), COLLECTIVES: table_digest(table)}
    agree(group, mine)
    return group


def wrong_size(found: int, expected: int) -> RankError:
    return RankError(
        "the group has another number of ranks than the artifact",
        expected=f"{expected} ranks",
        found=f"{found}",
        remedy=f"start {expected} processes, or compile with --tensor-parallel {found}",
    )


@dataclass(frozen=True)
class Launched:
    """The rank that torchrun made of this process."""

    rank: int
    size: int
    local_rank: int


def launched() -> Launched | None:
    """As torchrun's variables say; None where it has not started the process, or only one."""
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or size is None or not (rank.isdecimal() and size.isdecimal()):
        return None
    if int(size) == 1:
        return None
    local = os.environ.get("LOCAL_RANK", rank)
    return Launched(int(rank), int(size), int(local) if local.isdecimal() else int(rank))
