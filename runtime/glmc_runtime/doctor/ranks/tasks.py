"""What each rank of a probe does, in a process of its own: a product, sums of a group, messages."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

GLOO = "gloo"
LARGE = 1 << 20
"""Elements of the large all-reduce: 4 MiB of float32, above what a tree serves."""
LINK_BYTES = 4 << 20
_SIDE = 64
_PINGS = 20
_BULKS = 3


def card(rank: int, size: int, folder: Path, backend: str) -> dict[str, Any]:
    """A product of ones, of which every element is known, back in host memory."""
    device = _device(rank, backend)
    ones = torch.ones(_SIDE, _SIDE, device=device)
    product = (ones @ ones).cpu()
    right = bool((product == _SIDE).all())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "host memory"
    return {"right": right, "device": str(device), "name": name}


def group(rank: int, size: int, folder: Path, backend: str, patience: float) -> dict[str, Any]:
    """All-reduces of 1 and of many elements: rank r brings r + 1, and element i as many more."""
    device = _joined(rank, size, folder, backend, patience)
    sums = {}
    for count in (1, LARGE):
        place = torch.arange(count, dtype=torch.float32) % 128
        x = (place + rank + 1).to(device)
        expected = place * size + size * (size + 1) / 2
        dist.all_reduce(x)
        sums[str(count)] = bool(torch.equal(x.cpu(), expected))
    return {"sums": sums}


def links(rank: int, size: int, folder: Path, backend: str, patience: float) -> dict[str, Any]:
    """Each pair in turn: half the time of there and back for one element, and for many bytes."""
    device = _joined(rank, size, folder, backend, patience)
    found = {}
    for low in range(size):
        for high in range(low + 1, size):
            dist.barrier()
            if rank in (low, high):
                peer = high if rank == low else low
                one, many = (
                    torch.zeros(n, dtype=torch.uint8, device=device) for n in (1, LINK_BYTES)
                )
                latency = _there_and_back(one, peer, rank == low, _PINGS)
                bulk = _there_and_back(many, peer, rank == low, _BULKS)
                if rank == low:
                    found[f"{low}-{high}"] = {
                        "microseconds": round(latency * 1e6, 1),
                        "gigabytes_per_second": round(LINK_BYTES / bulk / 1e9, 3),
                    }
    dist.barrier()
    return {"pairs": found}


def _there_and_back(x: torch.Tensor, peer: int, first: bool, times: int) -> float:
    """The median of half the seconds of a round trip, the first one left out."""
    seconds = []
    for _ in range(times + 1):
        started = time.perf_counter()
        for send in (first, not first):
            if send:
                dist.send(x, peer)
            else:
                dist.recv(x, peer)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        seconds.append((time.perf_counter() - started) / 2)
    return median(seconds[1:])


def _joined(rank: int, size: int, folder: Path, backend: str, patience: float) -> torch.device:
    """Join the group of all ranks, which meet in a file of the probe's folder."""
    device = _device(rank, backend)
    store = dist.FileStore(str(folder / "meeting"), size)  # type: ignore[attr-defined]
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=patience)
    )
    return device


def _device(rank: int, backend: str) -> torch.device:
    if backend == GLOO:
        return torch.device("cpu")
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device
