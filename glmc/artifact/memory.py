"""Device memory that an artifact takes, and the batch and context that fit into a device.

The same sums as the runtime makes when it loads: weights, one arena for all phases at their
largest buckets, step inputs, and the blocks of the KV cache with the scratch block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from glmc.errors import UsageError
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.phases import DECODE, PhaseKey
from glmc_runtime.format.plan import HOST_SUFFIX, PhasePlan
from glmc_runtime.replay.cache import block_bytes


@dataclass(frozen=True)
class MemoryUse:
    """Bytes by purpose."""

    weights: int
    arena: int
    inputs: int
    cache: int

    @property
    def total(self) -> int:
        return self.weights + self.arena + self.inputs + self.cache


@dataclass(frozen=True)
class Fit:
    """The longest context, in tokens, that ``batch`` sequences can have; 0 when none fits."""

    batch: int
    context: int


def memory_use(
    manifest: Manifest, plans: Mapping[PhaseKey, PhasePlan], batch: int, context: int
) -> MemoryUse:
    """What ``batch`` sequences of ``context`` tokens take.

    Raises :class:`UsageError` beyond the limits that the artifact was compiled for.
    """
    largest = manifest.phase(DECODE.key).buckets[-1]
    if not 0 <= batch <= largest or not 0 <= context <= manifest.limits.max_context:
        raise UsageError(
            "the artifact was not compiled for this batch and context",
            expected=f"batch up to {largest}, context up to {manifest.limits.max_context}",
            found=f"batch {batch}, context {context}",
            remedy="compile with a larger --max-context or a larger decode bucket",
        )
    blocks = 1 + batch * -(-context // manifest.cache.block_size)
    steps = {key: manifest.phase(key).largest for key in plans}
    return MemoryUse(
        weights=weight_bytes(manifest),
        arena=max((plan.arena.evaluate(steps[key]) for key, plan in plans.items()), default=0),
        inputs=sum(_input_bytes(plan, steps[key]) for key, plan in plans.items()),
        cache=blocks * block_bytes(manifest.cache),
    )


def largest_context(
    manifest: Manifest,
    plans: Mapping[PhaseKey, PhasePlan],
    batch: int,
    device_bytes: int,
) -> int:
    """The longest context for ``batch`` sequences, whole blocks up to the artifact's limit."""
    empty = memory_use(manifest, plans, batch, 0).total
    room = device_bytes - empty
    if room < 0:
        return 0
    blocks = room // block_bytes(manifest.cache) // max(batch, 1)
    return min(blocks * manifest.cache.block_size, manifest.limits.max_context)


def fits(
    manifest: Manifest,
    plans: Mapping[PhaseKey, PhasePlan],
    device_bytes: int,
) -> tuple[Fit, ...]:
    """One :class:`Fit` per decode bucket, ascending."""
    return tuple(
        Fit(bucket, largest_context(manifest, plans, bucket, device_bytes))
        for bucket in manifest.phase(DECODE.key).buckets
    )


def weight_bytes(manifest: Manifest) -> int:
    """Bytes of all weights, whether they were written or not."""
    return sum(
        prod(entry.shape) * dtype_of(entry.dtype).itemsize for entry in manifest.weights.values()
    )


def _input_bytes(plan: PhasePlan, sizes: Mapping[str, int]) -> int:
    return sum(
        prod(extent.evaluate(sizes) for extent in spec.shape) * dtype_of(spec.dtype).itemsize
        for spec in plan.inputs
        if not spec.name.endswith(HOST_SUFFIX)
    )
