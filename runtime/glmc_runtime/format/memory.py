"""What loading an artifact allocates on its device, in bytes: the same sums.

What kernels allocate as they run is not among it: the workspace of CUDA's depends on configurations
that are tuned for the device (kernels/cuda/workspace.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import prod

from glmc_runtime.errors import RequestError
from glmc_runtime.format.cache import CacheSpec
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.manifest import Manifest, PhaseEntry
from glmc_runtime.format.phases import DECODE, PhaseKey
from glmc_runtime.format.plan import HOST_SUFFIX, InputSpec, PhasePlan

INPUT_ALIGNMENT = 64
_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3}
_UNITS.update(MB=10**6, GB=10**9)


def weight_bytes(manifest: Manifest) -> int:
    """Bytes of all weights of one rank, whether they were written or not."""
    return sum(
        prod(entry.shape) * dtype_of(entry.dtype).itemsize for entry in manifest.weights.values()
    )


def arena_bytes(plans: Mapping[PhaseKey, PhasePlan], entries: Mapping[PhaseKey, PhaseEntry]) -> int:
    """Bytes of the one arena that the phases share, each at its largest step."""
    return max(
        (plans[key].arena.evaluate(entry.largest) for key, entry in entries.items()), default=0
    )


def input_bytes(spec: InputSpec, sizes: Mapping[str, int]) -> int:
    """Bytes of a step input in a step of these sizes, without padding."""
    return prod(extent.evaluate(sizes) for extent in spec.shape) * dtype_of(spec.dtype).itemsize


def aligned(size: int) -> int:
    """The room of a step input in the memory that those of a phase share."""
    return -(-size // INPUT_ALIGNMENT) * INPUT_ALIGNMENT


def block_bytes(spec: CacheSpec) -> int:
    """Bytes of one block in all tensors and layers."""
    token = sum(
        prod(row.shape) * dtype_of(row.dtype).itemsize * len(row.layers) for row in spec.tensors
    )
    return spec.block_size * token


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes by purpose, and what was compiled for.

    ``inputs`` are the step inputs of all phases, ``block`` one block of the cache in all layers,
    of ``block_size`` tokens. ``batches`` are the decode buckets, ascending, ``max_context`` the
    longest sequence in tokens.
    """

    weights: int
    arena: int
    inputs: int
    block: int
    block_size: int
    batches: tuple[int, ...]
    max_context: int

    @property
    def token(self) -> int:
        """Bytes of the cache for one token of one sequence."""
        return self.block // self.block_size

    @property
    def without_cache(self) -> int:
        return self.weights + self.arena + self.inputs

    def blocks(self, batch: int, context: int) -> int:
        """Blocks that ``batch`` sequences of ``context`` tokens own, and the scratch block.

        Raises :class:`RequestError` beyond what was compiled for.
        """
        if not 0 <= batch <= self.batches[-1] or not 0 <= context <= self.max_context:
            raise RequestError(
                "the artifact was not compiled for this batch and context",
                expected=f"batch up to {self.batches[-1]}, context up to {self.max_context}",
                found=f"batch {batch}, context {context}",
                remedy="compile with a larger --max-context or a larger decode bucket",
            )
        return 1 + batch * -(-context // self.block_size)

    def total(self, batch: int, context: int) -> int:
        """What ``batch`` sequences of ``context`` tokens take; raises as :meth:`blocks`."""
        return self.without_cache + self.blocks(batch, context) * self.block

    def blocks_within(self, cache_memory: int) -> int:
        """Blocks of a cache of so many bytes that sequences can own: one more is scratch."""
        return max(cache_memory // self.block - 1, 0)

    def longest_context(self, batch: int, cache_memory: int) -> int:
        """The longest context of ``batch`` sequences in a cache of so many bytes: whole blocks, up
        to what was compiled for; 0 where there is room for none."""
        blocks = self.blocks_within(cache_memory) // max(batch, 1)
        return min(blocks * self.block_size, self.max_context)


def memory_needs(
    manifest: Manifest, plans: Mapping[PhaseKey, PhasePlan], rank: int = 0
) -> MemoryNeeds:
    """What an artifact takes on the device of a rank; ``plans`` are those of that rank."""
    entries = {key: entry for key, entry in manifest.phases_of(rank).items() if key in plans}
    return MemoryNeeds(
        weights=weight_bytes(manifest),
        arena=arena_bytes(plans, entries),
        inputs=sum(
            aligned(input_bytes(spec, entry.largest))
            for key, entry in entries.items()
            for spec in plans[key].inputs
            if not spec.name.endswith(HOST_SUFFIX)
        ),
        block=block_bytes(manifest.cache),
        block_size=manifest.cache.block_size,
        batches=manifest.phase(DECODE.key).buckets,
        max_context=manifest.limits.max_context,
    )


def parse_bytes(text: str) -> int:
    """``96GiB`` -> 103079215104, ``96GB`` -> 96000000000; raises :class:`RequestError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?i?B|)", text)
    if match is None or match[2] not in _UNITS:
        raise RequestError(
            "that is no amount of memory", expected="such as 96GiB or 96GB", found=text
        )
    return int(Decimal(match[1]) * _UNITS[match[2]])
