"""One rank of a group: its card, the group that it joins, and what all of them have alike."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from glmc_runtime.constants import __version__
from glmc_runtime.engine.assemble import Machine, assemble
from glmc_runtime.engine.loaded import vendor_of
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.errors import GuardError, RankError, RequestError
from glmc_runtime.format.manifest import Manifest, manifest_to_json
from glmc_runtime.loading.guards import device_for
from glmc_runtime.loading.loader import Artifact

ProcessGroup = Any  # torch.distributed's, whose class torch does not export
BACKENDS = ("gloo", "nccl")
_IDENTITY_BYTES = 512
# Ranks wait for each other while one loads or a user thinks; what ends a wait is the end of a rank.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Identity:
    """What must be the same on all ranks. ``artifact`` is a hash of the manifest, which has those
    of plans and tables; ``rank`` is the rank as which the artifact was loaded, of ``count``."""

    artifact: str
    runtime: str
    torch: str
    ranks: int

    @classmethod
    def of(cls, manifest: Manifest) -> Identity:
        text = json.dumps(manifest_to_json(manifest), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cls(digest, __version__, torch.__version__, manifest.ranks.count)


_NAMES = {
    "artifact": "another artifact",
    "runtime": "another version of glmc-runtime",
    "torch": "another version of torch",
    "ranks": "an artifact of another number of ranks",
}


def require_same(rank: int, found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Raise :class:`RankError` where a rank has not what the others have."""
    for field in fields(Identity):
        if found[field.name] != expected[field.name]:
            raise RankError(
                f"rank {rank} has {_NAMES[field.name]}",
                expected=str(expected[field.name]),
                found=str(found[field.name]),
                remedy="give all ranks the same artifact, glmc-runtime and torch",
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


def join(
    store: Any, rank: int, size: int, device: torch.device, options: LoadOptions
) -> ProcessGroup:
    """Join the process group of all ranks: through a ``store`` of torch.distributed or, where that
    is None, as the environment says.

    On host memory and with the vendor's emulator it is gloo; on a card nccl, which is the name of
    BKCL as well.
    """
    usual = "nccl" if device.type == "cuda" and not options.emulate else "gloo"
    backend = options.backend or usual
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


def agree(artifact: Artifact, group: ProcessGroup, device: torch.device) -> None:
    """Compare what the ranks of a group have; raises :class:`RankError` on all of them."""
    size = dist.get_world_size(group)
    if size != artifact.manifest.ranks.count:
        raise wrong_size(size, artifact.manifest.ranks.count)
    text = json.dumps({**asdict(Identity.of(artifact.manifest)), "rank": artifact.rank}).encode()
    mine = torch.tensor(
        list(text.ljust(_IDENTITY_BYTES)), dtype=torch.uint8, device=_place(group, device)
    )
    others = [torch.empty_like(mine) for _ in range(size)]
    dist.all_gather(others, mine, group=group)
    found = [json.loads(bytes(each.tolist())) for each in others]
    for rank, identity in enumerate(found):
        require_same(rank, identity, found[0])
        if identity["rank"] != rank:
            raise RankError(
                f"rank {rank} of the group has loaded what is another rank's",
                expected=f"rank {rank}",
                found=f"rank {identity['rank']}",
            )


def wrong_size(found: int, expected: int) -> RankError:
    return RankError(
        "the group has another number of ranks than the artifact",
        expected=f"{expected} ranks",
        found=f"{found}",
        remedy=f"start {expected} processes, or compile with --tensor-parallel {found}",
    )


def member_machine(
    artifact: Artifact,
    options: LoadOptions,
    group: ProcessGroup,
    given_tensors: Mapping[str, torch.Tensor] | None = None,
) -> Machine:
    """The machine of one rank of a group, whose cache has as many blocks as that of any other."""
    return assemble(artifact, options, given_tensors, agreed_blocks=partial(_least, group))


def _least(group: ProcessGroup, device: torch.device, blocks: int) -> int:
    least = torch.tensor([blocks], dtype=torch.int64, device=_place(group, device))
    dist.all_reduce(least, dist.ReduceOp.MIN, group=group)
    return int(least.item())


def _place(group: ProcessGroup, device: torch.device) -> torch.device:
    """Where tensors of a group's calls are: gloo takes those of the host wherever the rank is."""
    return torch.device("cpu") if dist.get_backend(group) == "gloo" else device


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
