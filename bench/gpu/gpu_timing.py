"""Clocks, device graphs and the two ceilings of a device; works on a CPU as well."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

Thunk = Callable[[], Any]
GIB = 1 << 30


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def host_times(step: Thunk, device: torch.device, repeats: int, steps: int) -> list[float]:
    """Milliseconds per call by the host's clock, for each of ``repeats`` runs of ``steps`` calls.

    Nothing waits for the device within a run, unless ``step`` does.
    """
    times = []
    for _ in range(repeats):
        wait(device)
        started = time.perf_counter()
        for _ in range(steps):
            step()
        wait(device)
        times.append((time.perf_counter() - started) / steps * 1e3)
    return times


def device_times(
    step: Thunk, device: torch.device, repeats: int, steps: int, warm: int = 2
) -> list[float]:
    """The same by events of the device, after ``warm`` calls; for what is shorter than a launch."""
    for _ in range(warm):
        step()
    if device.type != "cuda":
        return host_times(step, device, repeats, steps)
    times = []
    for _ in range(repeats):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        first.record()
        for _ in range(steps):
            step()
        last.record()
        torch.cuda.synchronize(device)
        times.append(first.elapsed_time(last) / steps)
    return times


@dataclass(frozen=True)
class Captured:
    """Thunks as one device graph; ``nodes`` is how many kernels and copies it has, if known."""

    replay: Thunk
    nodes: int | None


def captured(thunks: Sequence[Thunk], device: torch.device) -> Captured:
    """Capture the thunks in their order; on a CPU they are called one by one."""

    def run() -> None:
        for thunk in thunks:
            thunk()

    if device.type != "cuda":
        return Captured(run, None)
    stream = _stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph, inspectable = _empty_graph()
    with torch.cuda.stream(stream):
        run()
        torch.cuda.synchronize(device)
        with torch.cuda.graph(graph, stream=stream):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    nodes = _count_nodes(graph) if inspectable else None
    if inspectable:
        graph.instantiate()
    return Captured(graph.replay, nodes)


@cache
def _stream() -> torch.cuda.Stream:
    """One for all captures: cuBLAS keeps memory for each stream that it ran on."""
    return torch.cuda.Stream()


def _empty_graph() -> tuple[Any, bool]:
    """A graph, and whether what was captured can be looked at."""
    try:
        return torch.cuda.CUDAGraph(keep_graph=True), True
    except TypeError:  # before torch 2.8
        return torch.cuda.CUDAGraph(), False


def _count_nodes(graph: Any) -> int | None:
    """Kernels, copies and fills of a graph that was kept, by the CUDA runtime that torch loaded."""
    number = ctypes.c_size_t()
    for library in _runtimes():
        status = library.cudaGraphGetNodes(
            ctypes.c_void_p(graph.raw_cuda_graph()), None, ctypes.byref(number)
        )
        if status == 0:
            return int(number.value)
    return None


def _runtimes() -> list[Any]:
    """CUDA runtime libraries that this process has mapped."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    names = {line.split()[-1] for line in maps.splitlines() if "libcudart.so" in line}
    libraries = []
    for name in sorted(names) or glob.glob("/usr/local/cuda/lib64/libcudart.so"):
        with contextlib.suppress(OSError):
            libraries.append(ctypes.CDLL(name))
    return libraries


class Peak:
    """The most memory that tensors have from here on, beside what they have now."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._before = allocated(device)

    @property
    def gib(self) -> float | None:
        """None on a CPU."""
        if self._device.type != "cuda":
            return None
        return (torch.cuda.max_memory_allocated(self._device) - self._before) / GIB


def allocated(device: torch.device) -> int:
    """Bytes of all tensors on a device; 0 on a CPU, where nobody counts them."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def read_bandwidth(device: torch.device, quick: bool) -> dict[str, float]:
    """Bytes per second of plain reads, by two readers; ``best`` is the ceiling of all floors."""
    count = (1 << 22) if quick else (1 << 31)  # 4 GiB of float16
    data = torch.randn(1 << 22, device=device).half().repeat(count >> 22)
    out = torch.empty((), dtype=torch.float32, device=device)
    rates = {}
    flat = data.view(torch.float32)
    times = device_times(lambda: torch.sum(flat, 0, out=out), device, 5, 3)
    rates["torch.sum"] = data.nbytes / statistics.median(times) * 1e3
    if device.type == "cuda":
        from bench.gpu.gpu_read import reader

        read = reader(data)
        times = device_times(read, device, 5, 3)
        rates["triton"] = data.nbytes / statistics.median(times) * 1e3
    rates["best"] = max(rates.values())
    return rates


def product_rate(device: torch.device, quick: bool) -> float:
    """Operations per second of a bfloat16 matrix product of 8192 x 8192 x 8192, random data."""
    size = 256 if quick else 8192
    left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    out = torch.empty_like(left)
    times = device_times(lambda: torch.mm(left, right, out=out), device, 5, 4)
    return 2 * size**3 / statistics.median(times) * 1e3
