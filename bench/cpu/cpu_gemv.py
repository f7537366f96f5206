"""Which call multiplies few rows by a large weight fastest: ATen, oneDNN packed, 1x1 convolution,
or ours in C where the processor has no products of bfloat16.

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

from glmc_runtime.kernels.cpu.narrow import narrow_product, prefers_narrow
from glmc_runtime.kernels.cpu.packed import accumulate, as_image, can_pack, pack

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
    if can_pack(weight.dtype):
        linear = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        yield (
            "packed linear (allocates)",
            partial(torch.ops.mkldnn._linear_pointwise, x, linear, None, "none", [], ""),
        )
        yield "packed 1x1 convolution", accumulate(as_image(x), pack(weight), as_image(out))
    if prefers_narrow(weight):
        yield "ours in C", narrow_product(x, weight, None, out)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rows", default="1,4,16")
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
            for rows in map(int, options.rows.split(",")):
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
