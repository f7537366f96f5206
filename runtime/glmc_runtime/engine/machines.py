"""The machine of an artifact: in this process, as one rank of several, or of ranks started here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from glmc_runtime.engine.assemble import Machine, assemble
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.engine.timeline import on_cards
from glmc_runtime.errors import GuardError, RequestError
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.kernels import interpreter
from glmc_runtime.loading.loader import Artifact, Progress

if TYPE_CHECKING:
    from glmc_runtime.collectives.group import Group
    from glmc_runtime.engine.loaded import LoadedArtifact
    from glmc_runtime.loading.weights import Handed


def rank_of(process_group: Any) -> int | None:
    """The rank of this process: in the caller's group, or as torchrun's variables say. None where
    there is neither: whoever loads an artifact of several ranks starts them then."""
    from glmc_runtime.engine.ranks.member import launched

    if process_group is not None:
        return torch.distributed.get_rank(process_group)
    place = launched()
    return None if place is None else place.rank


def require_timed(manifest: Manifest) -> None:
    """Raise :class:`RequestError` where a load would start ranks on cards in other processes, whose
    calls have no timeline."""
    from glmc_runtime.engine.ranks.member import launched

    target = manifest.target
    on_card = target == interpreter.TARGET and not interpreter.interpreting()
    if manifest.ranks.count > 1 and launched() is None and on_card:
        raise on_cards(target)


def machine_of(
    artifact: Artifact,
    options: LoadOptions,
    process_group: Any,
    given_tensors: Mapping[str, torch.Tensor] | None,
    verify_hashes: bool,
    progress: Progress | None,
) -> Machine:
    """See :func:`glmc_runtime.load` for options and errors."""
    if artifact.manifest.ranks.count == 1:
        return assemble(artifact, options, given_tensors)
    require_distributed()
    if process_group is not None:
        group = _group_of(artifact, process_group)
        return assemble(artifact, options, given_tensors, group)
    from glmc_runtime.engine.ranks.member import launched

    place = launched()
    if place is not None:
        from glmc_runtime.engine.ranks.leading import launched_machine

        return launched_machine(artifact, options, place, given_tensors)
    if given_tensors is not None:
        raise RequestError(
            "tensors of this process can't be the weights of ranks in other processes",
            remedy="load with a process_group, or under torchrun, in each process its own weights",
        )
    from glmc_runtime.engine.ranks.controller import start_ranks

    return start_ranks(artifact, options, verify_hashes=verify_hashes, progress=progress)


def loaded_for_engine(
    artifact: Artifact,
    options: LoadOptions,
    process_group: Any,
    given_tensors: Mapping[str, torch.Tensor] | None,
    handed: Handed | None = None,
) -> LoadedArtifact:
    """An artifact without a cache, for an outer engine; see :func:`glmc_runtime.load_model`."""
    from glmc_runtime.engine.loaded import load_into_memory

    group = None
    if artifact.manifest.ranks.count > 1:
        if process_group is None:
            raise RequestError(
                "an artifact of several ranks is in one process of an engine a rank",
                expected="a process_group of the engine",
                found="None",
                remedy="pass the group of torch.distributed that the engine has for its ranks",
            )
        group = _group_of(artifact, process_group)
    return load_into_memory(artifact, options, given_tensors, group, handed)


def require_distributed() -> None:
    """Raise :class:`GuardError` for a torch that has no groups of ranks."""
    if not torch.distributed.is_available():
        raise GuardError(
            "an artifact of several ranks needs torch.distributed",
            expected="torch.distributed.is_available()",
            found=f"a torch {torch.__version__} that was built without it",
            remedy="install another build of torch, or compile for one rank",
        )


def _group_of(artifact: Artifact, process_group: Any) -> Group:
    from glmc_runtime.engine.ranks.member import group_of

    rank, size = (
        torch.distributed.get_rank(process_group),
        torch.distributed.get_world_size(process_group),
    )
    return group_of(artifact, process_group, rank, size)
