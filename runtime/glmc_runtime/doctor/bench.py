"""A bench for single calls: one phase bound at one small step, with memory of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from glmc_runtime.doctor.hostile import fill_random
from glmc_runtime.format.dependence import Symbols
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.phases import PhaseKey, phase_of
from glmc_runtime.format.plan import Call
from glmc_runtime.kernels.vendor import Vendor
from glmc_runtime.loading.check import check_plan
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.replay.arena import Arena
from glmc_runtime.replay.bind import Memory, PhaseBinder
from glmc_runtime.replay.cache import KVCache
from glmc_runtime.replay.inputs import StepInputs
from glmc_runtime.replay.step import ScheduledTokens, Step, blocks_for

MANY_SEQUENCES = 16
MANY_TOKENS = 64


class RandomWeights(dict[str, torch.Tensor]):
    """Weights made when they are asked for: normal, so scaled that products keep their size."""

    def __init__(
        self, manifest: Manifest, device: torch.device, generator: torch.Generator
    ) -> None:
        super().__init__()
        self._manifest, self._device, self._generator = manifest, device, generator

    def __missing__(self, name: str) -> torch.Tensor:
        entry = self._manifest.weights[name]
        weight = torch.empty(entry.shape, dtype=dtype_of(entry.dtype), device=self._device)
        inner = entry.shape[-1] if len(entry.shape) > 1 else 1
        fill_random(weight, self._generator, inner**-0.5)
        self[name] = weight
        return weight


def steps_of(artifact: Artifact, key: PhaseKey, generator: torch.Generator) -> list[Step]:
    """One sequence with one token, and as many as are still quick, at different lengths."""
    manifest = artifact.manifest
    size = manifest.cache.block_size
    longest = min(manifest.limits.max_context, manifest.cache.blocks_per_sequence * size, 4 * size)

    def random(low: int, high: int) -> int:
        return int(torch.randint(low, max(high, low + 1), (), generator=generator))

    phase, buckets = phase_of(key.phase), manifest.phase(key).buckets
    if phase.equates("tokens", "sequences"):
        buckets = tuple(n for n in buckets if n <= MANY_SEQUENCES)
        counts = sorted({1, buckets[-1] if buckets else 1})
        plans = [[(1, random(0, longest - 1)) for _ in range(count)] for count in counts]
        tokens = counts
    else:
        room = min(MANY_TOKENS, buckets[-1], longest)
        lengths = [1, max(1, room // 4), max(1, room // 2)]
        ragged = [(length, random(0, longest - length)) for length in lengths]
        plans = [[(1, 0)], ragged]
        # One row of padding, where the largest step has room for it.
        tokens = [1, min(sum(lengths) + 1, buckets[-1])]
        if sum(lengths) > tokens[1]:
            plans, tokens = plans[:1], tokens[:1]
    steps = []
    for plan, rows in zip(plans, tokens, strict=True):
        total = sum(blocks_for(length + start, size) for length, start in plan)
        order = (torch.randperm(total, generator=generator) + 1).tolist()
        chunks = []
        for length, start in plan:
            need = blocks_for(length + start, size)
            blocks, order = order[:need], order[need:]
            chunks.append(ScheduledTokens([0] * length, start, blocks))
        steps.append(Step(chunks, rows, len(chunks), size))
    return steps


class Bench:
    """Binds the calls of a phase at ``step`` to fresh memory and gives out their arguments."""

    def __init__(
        self,
        artifact: Artifact,
        key: PhaseKey,
        step: Step,
        vendor: Vendor,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        manifest = artifact.manifest
        self.plan = artifact.plans[key]
        self.step = step
        self.generator = generator
        check_plan(self.plan, manifest)
        inputs = StepInputs(self.plan.inputs, step.sizes, device)
        inputs.fill(step)
        arena = Arena(self.plan.arena.evaluate(step.sizes), device)
        blocks = 2 + max(block for chunk in step.chunks for block in chunk.blocks)
        self.cache = KVCache(manifest.cache, blocks, device)
        weights = RandomWeights(manifest, device, generator)
        self._symbols = Symbols(step.sizes, step.real)
        memory = Memory(arena, inputs, weights, self.cache, vendor)
        self._binder = PhaseBinder(self.plan, memory, None)

    def arguments(self, position: int) -> dict[str, Any]:
        """The tensors and constants that a call is bound to."""
        return self._binder.arguments(position, self._symbols)

    def run(self, position: int) -> None:
        """Run one call."""
        self._binder.bind(position, position, self._symbols)[0]()

    def signature(self, position: int) -> str:
        """Equal for calls that differ only in layer, memory and weights of one shape."""
        parts = [self.plan.calls[position].function]
        for name, value in sorted(self.arguments(position).items()):
            shown = value
            if isinstance(value, torch.Tensor):
                shown = (value.dtype, tuple(value.shape))
            parts.append(f"{name}={shown}")
        return " ".join(parts)

    def place(self, call: Call, kind: str) -> str:
        """Where a check stands, for the report."""
        step = f"{self.step.tokens} tokens, {self.step.sequences} sequences"
        return f"{self.plan.name}, {step}, {kind}, node '{call.node}'"

    @staticmethod
    def poison(tensors: Iterable[Any]) -> None:
        """Fill outputs with NaN, or -1 for integers: what a kernel leaves alone stays visible."""
        for tensor in tensors:
            tensor.fill_(float("nan") if tensor.is_floating_point() else -1)
