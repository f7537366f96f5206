"""An artifact that is replayed twice, call by call: once as it is, once on values that are put in.

Both read the same weights; each has an arena, a cache and step inputs of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from glmc.check.verify.lockstep import RankThreads, ranks_of
from glmc_runtime.collectives.group import Group
from glmc_runtime.engine.loaded import LoadedArtifact, load_into_memory
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.replay.arena import Arena
from glmc_runtime.replay.cache import KVCache
from glmc_runtime.replay.phase import PhaseReplay


@dataclass(frozen=True)
class Side:
    """One replay of all phases."""

    cache: KVCache
    replays: Mapping[PhaseKey, PhaseReplay]


@dataclass(frozen=True)
class TwoReplays:
    """Of one rank. ``free`` computes with what it has computed; what ``forced`` has computed is
    replaced after each call."""

    loaded: LoadedArtifact
    free: Side
    forced: Side


@contextmanager
def two_replays(
    path: Path, ranks: int, options: LoadOptions, blocks: int
) -> Iterator[tuple[RankThreads, list[TwoReplays]]]:
    """All ranks of the artifact at ``path`` inside the block, with caches of ``blocks`` blocks."""

    def make(artifact: Artifact, options: LoadOptions, group: Group | None) -> TwoReplays:
        loaded = load_into_memory(artifact, options, None, group)
        other = replace(loaded, arena=Arena(loaded.arena.size, loaded.device))
        return TwoReplays(loaded, _side(loaded, blocks), _side(other, blocks))

    with ranks_of(path, ranks, options, make) as made:
        yield made


def _side(loaded: LoadedArtifact, blocks: int) -> Side:
    plans, graphs = loaded.artifact.plans, loaded.graphs(capture=False)
    cache = KVCache(loaded.artifact.manifest.cache, blocks, loaded.device)
    replays = {}
    for key in loaded.entries:
        inputs = loaded.step_inputs(key)
        replays[key] = loaded.replay(plans[key], cache, inputs, inputs, graphs)
    return Side(cache, replays)
