"""What the page is told of an artifact, beside the history of its compile."""

from __future__ import annotations

from dataclasses import dataclass

from glmc.artifact.writer import ManifestParts
from glmc.compiled import Compiled, manifest_parts
from glmc_runtime.format.cache import CacheSpec
from glmc_runtime.format.manifest import Guards, Limits, Manifest, ModelFacts, PhaseEntry
from glmc_runtime.format.memory import block_bytes, weight_bytes


@dataclass(frozen=True)
class ArtifactFacts:
    """Facts of a manifest; ``weight_bytes`` of all weights, whether they were packed or not."""

    dtype: str
    abi_profile: str | None
    model: ModelFacts
    cache: CacheSpec
    limits: Limits
    guards: Guards
    phases: tuple[PhaseEntry, ...]
    weight_bytes: int

    @property
    def cache_token_bytes(self) -> int:
        """Bytes of the cache for one token of one sequence."""
        return block_bytes(self.cache) // self.cache.block_size

    @property
    def most_sequences(self) -> int:
        """The largest batch of a step."""
        return max((entry.largest.get("sequences", 1) for entry in self.phases), default=1)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache where the largest batch has the longest context."""
        blocks = -(-self.limits.max_context // self.cache.block_size)
        return (1 + self.most_sequences * blocks) * block_bytes(self.cache)


def facts_of_compile(compiled: Compiled) -> ArtifactFacts:
    """Before the artifact is written, and where none is."""
    weights = sum(weight.bytes for weight in compiled.weights.values())
    return _facts(manifest_parts(compiled), weights)


def facts_of_manifest(manifest: Manifest) -> ArtifactFacts:
    """Of an artifact."""
    return _facts(manifest, weight_bytes(manifest))


def _facts(parts: ManifestParts | Manifest, weights: int) -> ArtifactFacts:
    return ArtifactFacts(
        dtype=parts.dtype,
        abi_profile=parts.abi_profile,
        model=parts.model,
        cache=parts.cache,
        limits=parts.limits,
        guards=parts.guards,
        phases=parts.phases,
        weight_bytes=weights,
    )
