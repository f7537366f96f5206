"""An artifact in memory with a cache of its own: all that an engine runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from glmc_runtime.collectives.agreement import gathered_texts
from glmc_runtime.collectives.group import Group
from glmc_runtime.engine.exclusive import Exclusive
from glmc_runtime.engine.greedy_tokens import GreedyLauncher, LocalGreedy
from glmc_runtime.engine.loaded import load_into_memory
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.format.cache import SCRATCH_BLOCK
from glmc_runtime.format.phases import DECODE, PhaseKey
from glmc_runtime.format.plan import Call
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.replay.buckets import Buckets
from glmc_runtime.replay.cache import Cache, KVCache, choose_block_count
from glmc_runtime.replay.device_order import StreamOrder
from glmc_runtime.replay.phase import PhaseReplay
from glmc_runtime.replay.statistics import Statistics
from glmc_runtime.replay.step import Step
from glmc_runtime.replay.timeline.step_times import StepTimes


class Replay(Protocol):
    """A phase as an engine sees it; see :class:`glmc_runtime.replay.phase.PhaseReplay`."""

    @property
    def has_greedy(self) -> bool: ...
    def run(self, step: Step) -> torch.Tensor: ...
    def run_greedy(self, step: Step) -> torch.Tensor: ...
    def trace(self, step: Step) -> Iterator[tuple[Call, dict[str, Any]]]: ...


def _nothing() -> None:
    pass


def _no_leader() -> bool:
    return False


@dataclass(frozen=True)
class Machine:
    """Everything that a session runs on. ``replays`` is by phase; ``exclusive`` keeps the steps of
    several threads apart, and ``stream_order`` orders those of several streams of a device.
    ``greedy`` makes what enqueues greedy decode steps of up to so many rows, and ``close`` ends
    what runs besides this process. ``follow`` takes the steps of the rank that leads this one, as
    far as there is one, and says whether there was. ``phases`` are the replays of this process,
    whoever leads, and ``times`` times those of ranks in other processes."""

    device: torch.device
    cache: Cache
    replays: Mapping[PhaseKey, Replay]
    prefill_buckets: Buckets
    decode_buckets: Buckets
    max_context: int
    statistics: Statistics
    stream_order: StreamOrder
    exclusive: Exclusive
    greedy: Callable[[int], GreedyLauncher]
    close: Callable[[], object] = _nothing
    follow: Callable[[], bool] = _no_leader
    phases: tuple[PhaseReplay, ...] = ()
    times: StepTimes | None = None


def assemble(
    artifact: Artifact,
    options: LoadOptions,
    given_tensors: Mapping[str, torch.Tensor] | None = None,
    group: Group | None = None,
) -> Machine:
    """Check, load and bind; see :func:`glmc_runtime.load` for the options and errors.

    A rank of a ``group`` has as many blocks as the one that has room for the fewest.
    """
    loaded = load_into_memory(artifact, options, given_tensors, group)
    spec = artifact.manifest.cache
    blocks = choose_block_count(
        spec,
        loaded.max_context,
        loaded.decode_buckets.largest,
        loaded.device,
        kv_blocks=options.kv_blocks,
        kv_memory_bytes=options.kv_memory_bytes,
    )
    if group is not None:
        blocks = min(int(text) for text in gathered_texts(group, str(blocks)))
    cache = KVCache(spec, blocks, loaded.device)
    replays, graphs = {}, loaded.graphs()
    for key in loaded.entries:
        plan, inputs = artifact.plans[key], loaded.step_inputs(key)
        replays[key] = loaded.replay(plan, cache, inputs, inputs, graphs)
    loaded.capture(replays, graphs, spec.block_size, SCRATCH_BLOCK, prefill=options.prefill_graphs)
    return Machine(
        loaded.device,
        cache,
        replays,
        loaded.prefill_buckets,
        loaded.decode_buckets,
        loaded.max_context,
        loaded.statistics,
        loaded.stream_order,
        loaded.exclusive,
        partial(LocalGreedy, replays[DECODE.key], loaded.device),
        phases=tuple(replays.values()),
    )
