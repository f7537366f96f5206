"""Which call multiplies few rows by a large weight fastest: ATen, oneDNN over a packed copy of the
weight, or ours, which reads the weight where it lies.

    python -m bench.cpu.cpu_gemv [--threads N] [--cpu-clock] [--rows 1,4,16]

Prints GB/s of weight traffic (best of the repetitions) beside the read bandwidth of a plain sum.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.words import numbers
from glmc_runtime.kernels.cpu.few_rows import few_rows_product, prefers_few_rows
from glmc_runtime.kernels.cpu.processor import multiplies

SHAPES = ((4096, 4096), (13696, 4096), (4096, 13696))
DTYPES = (torch.bfloat16, torch.float32, torch.float16)
Clock = Callable[[], float]


def best(thunk: Callable[[], Any], clock: Clock, seconds: float = 0.7) -> float:
    """The shortest of all repetitions that fit into ``seconds`` (at least three)."""
    thunk()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        started = clock()
        thunk()
        times.append(clock() - started)
    return min(times)


def candidates(
    rows: int, weight: torch.Tensor, transposed: torch.Tensor
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Ways to multiply; ``transposed`` is the weight in the other layout."""
    size, depth = weight.shape
    x = torch.randn(rows, depth).to(weight.dtype)
    out = torch.zeros(rows, size, dtype=weight.dtype)
    yield "mm", partial(torch.mm, x, weight.t(), out=out)
    if weight.dtype != torch.float16:
        yield "mm, transposed copy", partial(torch.mm, x, transposed, out=out)
    if rows == 1:
        yield "mv", partial(torch.mv, weight, x[0], out=out[0])
    if weight.dtype != torch.float16 and multiplies(weight.dtype):
        yield "packed 1x1 convolution", _convolution(x, weight, out)
    if prefers_few_rows(1, weight):
        yield "ours in C", few_rows_product(x, weight, None, out)


def _convolution(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> Callable[[], Any]:
    """``out += x @ weight.T`` over oneDNN's blocked layout: rows are pixels of an image."""
    size, depth = weight.shape
    places: list[list[int]] = [[0, 0], [1, 1], [1, 1]]
    packed = torch.ops.mkldnn._reorder_convolution_weight(
        weight.view(size, depth, 1, 1), *places, 1, [1, depth, 4, 1]
    )
    image, result = (
        part.view(1, part.shape[0], 1, part.shape[1]).permute(0, 3, 1, 2) for part in (x, out)
    )
    accumulate = torch.ops.mkldnn._convolution_pointwise_.binary
    return partial(accumulate, result, image, packed, None, *places, 1, "add", 1.0, None, [], None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rows", type=numbers, default="1,4,16")
    parser.add_argument("--cpu-clock", action="store_true", help="processor time; one thread only")
    options = parser.parse_args()
    if options.cpu_clock and options.threads != 1:
        parser.error("--cpu-clock counts all threads together: it needs --threads 1")
    clock = time.process_time if options.cpu_clock else time.perf_counter
    torch.set_num_threads(options.threads)
    data = torch.ones(1 << 28)
    bandwidth = data.numel() * 4 / best(data.sum, clock, 2.0) / 1e9
    table = Table(title=f"{options.threads} threads, a sum reads {bandwidth:.1f} GB/s")
    for title in ("dtype", "weight", "rows", "call", "ms", "GB/s"):
        table.add_column(title, justify="right")
    for dtype in DTYPES:
        for size, depth in SHAPES:
            weight = torch.randn(size, depth).to(dtype)
            transposed = weight.t().contiguous()
            for rows in options.rows:
                for name, thunk in candidates(rows, weight, transposed):
                    seconds = best(thunk, clock)
                    rate = weight.numel() * weight.element_size() / seconds / 1e9
                    table.add_row(
                        str(dtype).removeprefix("torch."),
                        f"{size}x{depth}",
                        str(rows),
                        name,
                        f"{seconds * 1e3:.2f}",
                        f"{rate:.1f}",
                    )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
