"""The number of KV splits of a decode attention, and its block sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from glmc_runtime.kernels.checks import power_of_two
from glmc_runtime.kernels.cuda import tuned
from glmc_runtime.kernels.cuda.launch import multiprocessors
from glmc_runtime.kernels.cuda.tuned import Configuration

MOST_SPLITS = 128
REACHES = (2048, 32768, 131072)
"""Longest contexts that are tuned apart: one configuration serves every length of a call."""


class Shape(NamedTuple):
    """What decides how a call is cut: ``longest`` is the longest context it can meet."""

    sequences: int
    q_heads: int
    kv_heads: int
    head_dim: int
    longest: int
    dtype: torch.dtype

    @property
    def key(self) -> str:
        reach = next((reach for reach in REACHES if reach >= self.longest), REACHES[-1])
        return f"{self.q_heads}x{self.kv_heads}x{self.head_dim}@{reach}"


def count_splits(shape: Shape, processors: int, waves: int, shortest: int, least: int = 2) -> int:
    """As many splits as make ``waves`` programs per multiprocessor, none in vain for any length.

    Rounded down: where two programs fit on a multiprocessor at a time, one more would cost a second
    round. Where that leaves less than ``least``, pairs alone are about as many: twice the programs
    keep the last round short.
    """
    pairs = shape.sequences * shape.kv_heads
    splits = waves * processors // pairs
    if splits < least:
        splits = -(-2 * waves * processors // pairs)
    return max(1, min(splits, MOST_SPLITS, -(-shape.longest // shortest)))


def default(shape: Shape) -> Configuration:
    """Keys and values of 32 KiB per round and memory for two rounds in each of two programs per
    multiprocessor: at least 64 KiB are in flight."""
    size = torch.empty(0, dtype=shape.dtype).element_size()
    block = 1 << max(4, min(7, (16384 // (size * power_of_two(shape.head_dim))).bit_length() - 1))
    return _configuration(shape, 2, block, 2 * block, 16, 4, 3)


def _configuration(
    shape: Shape,
    waves: int,
    block: int,
    shortest: int,
    fan: int,
    warps: int,
    stages: int,
    together: int = 8,
    reduce: str = "last",
    least: int = 2,
) -> Configuration:
    """``WAVES``: programs per multiprocessor, and ``LEAST``: see ``count_splits``; ``MERGE``:
    "last" or "launch"; the rest are constants of the kernel."""
    wide = warps >= 4 and shape.q_heads <= 16 * shape.kv_heads
    return {
        "WAVES": waves,
        "BLOCK": block,
        "SHORTEST": shortest,
        "FAN": fan,
        "TOGETHER": together if wide else min(together, 4),
        "REDUCE": reduce,
        "LEAST": least,
        "num_warps": warps,
        "num_stages": stages,
    }


# What follows the shape in _configuration. Short contexts: a tile or two per program.
_SHORT = (
    (2, 64, 64, 32, 4, 3, 8),
    (2, 64, 64, 32, 4, 3, 8, "launch"),
    (2, 64, 128, 16, 4, 3, 8, "launch"),
    (2, 64, 128, 16, 4, 3, 4),
    (2, 128, 128, 16, 4, 2, 8),
    (2, 128, 128, 16, 4, 2, 8, "launch"),
    (1, 128, 128, 16, 8, 3, 8),
    (1, 128, 128, 16, 8, 3, 8, "launch"),
    (1, 128, 256, 16, 4, 3, 4, "last", 1),
    (1, 64, 128, 16, 4, 5, 4, "last", 1),
    (4, 32, 64, 32, 2, 3, 4, "launch"),
    (4, 32, 128, 16, 2, 4, 4),
    (3, 64, 128, 16, 4, 3, 4, "launch"),
)
_LONG = (
    (2, 64, 128, 16, 4, 3, 8, "launch"),
    (2, 64, 256, 16, 4, 3, 4),
    (1, 128, 256, 16, 4, 3, 4),
    (1, 128, 256, 16, 4, 3, 4, "launch"),
    (1, 64, 256, 16, 4, 5, 4, "launch"),
    (2, 128, 128, 16, 4, 2, 4),
    (2, 128, 128, 16, 4, 2, 4, "launch"),
    (1, 128, 256, 16, 8, 3, 8, "launch"),
    (3, 64, 128, 16, 4, 3, 4, "launch"),
    (4, 32, 128, 16, 2, 4, 4),
    (4, 32, 128, 16, 2, 4, 4, "launch"),
)


def candidates(shape: Shape) -> Iterator[Configuration]:
    """What to try for a shape, the default first."""
    seen = []
    first = default(shape)
    widest = 16384 // power_of_two(shape.head_dim)
    if shape.dtype == torch.float32:
        widest //= 2
    sizes = _SHORT if shape.longest <= REACHES[0] else _LONG
    more = (_configuration(shape, *size) for size in sizes if size[1] <= widest)
    for configuration in (first, *more):
        if configuration not in seen:
            seen.append(configuration)
            yield configuration


def choose(
    kernel: str, arguments: dict[str, Any], shape: Shape, device: torch.device
) -> Configuration:
    """The configuration that was given, or was measured, or the default; with its ``splits``."""
    configuration: Configuration = (
        arguments.get("configuration")
        or tuned.configuration(kernel, shape.dtype, shape.key, shape.sequences)
        or default(shape)
    )
    if "splits" in configuration:
        return configuration
    processors = multiprocessors(device)
    splits = count_splits(
        shape,
        processors,
        configuration["WAVES"],
        configuration["SHORTEST"],
        configuration.get("LEAST", 2),
    )
    return configuration | {"splits": splits}
