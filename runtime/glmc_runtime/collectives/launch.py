"""A short job on ranks of this host, or on those that torchrun started."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.symmetric_memory import MULTICAST_OFF
from glmc_runtime.command.rank_processes import NONE, run_ranks
from glmc_runtime.errors import GlmcError, GuardError, Lines, RankError

Job = Callable[..., str]
"""Called on each rank with its group, its device and the options; rank 0's text is the result."""
BACKENDS = ("gloo", "nccl")
_DIST: Any = dist  # some of its names have no types
_SHOWN_CHARACTERS = 200


def run_job(
    job: str,
    options: Mapping[str, Any],
    ranks: int,
    *,
    backend: str = "gloo",
    topology: str,
    limit: float,
) -> str:
    """What ``job``, ``module:function``, returns on rank 0 of ``ranks`` processes; raises
    :class:`RankError` where one fails or ``limit`` seconds have passed since all have imported
    torch. ``options`` are JSON. No process is left, however this one ends."""
    if backend == "nccl":
        _require_cards(ranks)
    ended = run_ranks(
        f"{__name__}:take_part",
        ranks,
        limit,
        MULTICAST_OFF if backend == "nccl" else NONE,
        job=job,
        options=dict(options),
        backend=backend,
        topology=topology,
        patience=limit,
    )
    if ended.problem:
        raise RankError(
            f"the job of {ranks} ranks has failed: {ended.problem}",
            place=job,
            expected="an answer of each rank",
            found=Lines.of([line[:_SHOWN_CHARACTERS] for line in ended.said]),
            remedy="see what the rank wrote; where time was short, try an idle machine or fewer "
            "ranks",
        )
    return str(ended.answers[0])


def take_part(
    rank: int,
    size: int,
    folder: Path,
    job: str,
    options: Mapping[str, Any],
    backend: str,
    topology: str,
    patience: float,
) -> str:
    """The part of one rank, in a process of its own."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
    store = _DIST.FileStore(str(folder / "meeting"), size)
    process_group = _process_group(backend, store, rank, size, patience)
    group = Group(rank, size, process_group, topology=topology, patience=patience)
    try:
        return _called(job, options, group, backend, rank)
    except GlmcError as error:
        sys.exit(str(error))


def joined_job(job: str, options: Mapping[str, Any], backend: str, topology: str) -> str | None:
    """The same as one of the ranks that torchrun started; None but on rank 0."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if backend == "nccl":
        os.environ.update(MULTICAST_OFF)
        torch.cuda.set_device(local)
    dist.init_process_group(backend)
    try:
        group = dist.group.WORLD
        rank, size = dist.get_rank(), dist.get_world_size()
        text = _called(job, options, Group(rank, size, group, topology=topology), backend, local)
    finally:
        dist.destroy_process_group()
    return text if rank == 0 else None


def _called(job: str, options: Mapping[str, Any], group: Group, backend: str, local: int) -> str:
    module, _, name = job.partition(":")
    function: Job = getattr(import_module(module), name)
    device = torch.device("cuda", local) if backend == "nccl" else torch.device("cpu")
    return function(group, device, **options)


def _process_group(backend: str, store: Any, rank: int, size: int, limit: float) -> Any:
    wait = timedelta(seconds=limit)
    if backend == "gloo":
        gloo = _DIST.ProcessGroupGloo
        options = gloo._Options()
        options._devices = [gloo.create_device(hostname="127.0.0.1")]
        options._timeout = wait
        return gloo(store, rank, size, options)
    torch.cuda.set_device(rank)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
    return dist.group.WORLD


def _require_cards(ranks: int) -> None:
    if torch.cuda.device_count() < ranks:
        raise GuardError(
            f"{ranks} ranks over nccl need a card each",
            expected=f"{ranks} cards",
            found=str(torch.cuda.device_count()),
            remedy="run it where the cards are, or with --backend gloo",
        )
