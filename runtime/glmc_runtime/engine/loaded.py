"""An artifact in memory, without a cache: guards, weights, arena, and what its phases share."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from glmc_runtime.collectives.group import Group
from glmc_runtime.command.units import bytes_text
from glmc_runtime.engine.exclusive import Exclusive
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.errors import RequestError
from glmc_runtime.format.manifest import PhaseEntry
from glmc_runtime.format.memory import arena_bytes
from glmc_runtime.format.phases import DECODE, PREFILL, PhaseKey, phase_of
from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.kernels import is_vendor
from glmc_runtime.kernels.interpreter import check_triton, is_interpreted, say_interpreted
from glmc_runtime.kernels.vendor import Vendor, find_vendor, say_emulated
from glmc_runtime.loading.check import check_plan
from glmc_runtime.loading.guards import (
    check_vendor_calls,
    check_vendor_functions,
    check_versions,
    device_for,
)
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.loading.weights import Handed, given_weights, load_weights
from glmc_runtime.replay.arena import Arena
from glmc_runtime.replay.bind import Memory, PhaseBinder
from glmc_runtime.replay.bound_step import Inputs
from glmc_runtime.replay.buckets import Buckets
from glmc_runtime.replay.cache import KVCache
from glmc_runtime.replay.device_order import StreamOrder, indexed
from glmc_runtime.replay.graph import GraphCapture, graphs_for
from glmc_runtime.replay.inputs import StepInputs
from glmc_runtime.replay.phase import PhaseReplay
from glmc_runtime.replay.statistics import Statistics
from glmc_runtime.replay.step import ScheduledTokens, Step, blocks_for
from glmc_runtime.replay.weight_watch import WeightWatch

_LOG = logging.getLogger("glmc_runtime.device")
CAPTURED_TOKENS = 1024
"""The most tokens of a prefill step whose parts are device graphs: the more tokens, the longer the
device computes, and the less it matters what the host takes to launch it."""


@dataclass(frozen=True)
class LoadedArtifact:
    """What is in memory of an artifact before there is a cache. ``entries`` are the plans of this
    rank, with the largest value of each symbol, ``buckets`` what their steps are padded to.
    ``exclusive`` keeps the steps of several threads apart, and ``stream_order`` orders those of
    several streams of a device. ``group`` is that of the ranks of an artifact of several."""

    artifact: Artifact
    device: torch.device
    vendor: Vendor | None
    weights: dict[str, torch.Tensor]
    arena: Arena
    entries: Mapping[PhaseKey, PhaseEntry]
    buckets: Mapping[PhaseKey, Buckets]
    statistics: Statistics
    watch: WeightWatch
    guard_steps: int
    profile_ranges: bool
    stream_order: StreamOrder
    exclusive: Exclusive
    group: Group | None = None

    @property
    def max_context(self) -> int:
        """The longest sequence, in tokens."""
        manifest = self.artifact.manifest
        table = manifest.cache.blocks_per_sequence * manifest.cache.block_size
        return min(manifest.limits.max_context, table)

    @property
    def prefill_buckets(self) -> Buckets:
        return self.buckets[PREFILL.key]

    @property
    def decode_buckets(self) -> Buckets:
        return self.buckets[DECODE.key]

    def graphs(self, capture: bool = True) -> GraphCapture:
        """The capture of the replays of one cache: torch gives up the memory pool of graphs with
        the last of them, so those of another cache need one of their own. Without ``capture`` there
        are none, and calls are made one by one."""
        with self.stream_order.enter():  # its stream is one of the device that is current
            called = not capture or self.statistics.emulated or on_host(self.group)
            return graphs_for(self.device, called)

    def step_inputs(self, key: PhaseKey, plan: PhasePlan | None = None) -> StepInputs:
        """Memory for the step inputs of a phase, up to its largest step; ``plan`` is the artifact's
        own or stands for it."""
        plan = plan or self.artifact.plans[key]
        return StepInputs(plan.inputs, self.entries[key].largest, self.device)

    def replay(
        self,
        plan: PhasePlan,
        cache: KVCache,
        memory: StepInputs,
        inputs: Inputs,
        graphs: GraphCapture,
        most_kept: int | None = None,
        kept_hidden: torch.Tensor | None = None,
    ) -> PhaseReplay:
        """A phase over ``cache``; its calls read ``memory``, which ``inputs`` fills. ``most_kept``
        steps stay bound where that is more than the phase keeps; ``kept_hidden`` as for
        :class:`PhaseReplay`."""
        bound_to = Memory(self.arena, memory, self.weights, cache, self.vendor, self.group)
        keep = plan.phase.bindings_kept
        if keep is not None and most_kept is not None:
            keep = max(keep, most_kept)
        binder = PhaseBinder(plan, bound_to, keep, self.profile_ranges)
        return PhaseReplay(
            binder, inputs, graphs, self.statistics, keep, self.guard_steps, self.watch, kept_hidden
        )

    def capture(
        self,
        replays: Mapping[PhaseKey, PhaseReplay],
        graphs: GraphCapture,
        block_size: int,
        scratch_block: int,
        prefill: bool = False,
    ) -> None:
        """Capture every bucket of the phases that are captured where the device has graphs, the
        largest first; all rows write to the scratch block. With ``prefill`` those of prefill, too,
        whose graphs end where attention begins. Of buckets beyond ``CAPTURED_TOKENS`` the largest
        is run once, so that kernels are compiled."""
        if not graphs.on_device:
            return
        row = ScheduledTokens((0,), 0, [scratch_block])
        with torch.inference_mode(), self.stream_order.enter():
            for key, replay in replays.items():
                phase, entry = phase_of(key.phase), self.entries[key]
                for bucket in reversed(entry.buckets) if phase.captured else ():
                    sizes = phase.largest(bucket, entry.largest)
                    tokens, sequences = sizes.pop("tokens"), sizes.pop("sequences")
                    others = {name: (size, size) for name, size in sizes.items()}
                    replay.capture(Step([row] * sequences, tokens, sequences, block_size, others))
            if not prefill:
                return
            entry, replay = self.entries[PREFILL.key], replays[PREFILL.key]
            for bucket in reversed(entry.buckets):
                length = min(bucket, self.max_context)
                blocks = [scratch_block] * blocks_for(length, block_size)
                # One sequence, then one beside another in decode: attention has a kernel for each.
                alone = Step([ScheduledTokens((0,) * length, 0, blocks)], bucket, 1, block_size)
                if bucket <= CAPTURED_TOKENS:
                    replay.capture(alone)
                elif bucket == entry.buckets[-1]:
                    replay.warm(alone)
                else:
                    continue
                if length > 2 and entry.largest["sequences"] > 1:
                    longer = ScheduledTokens((0,) * (length - 1), 0, blocks)
                    replay.warm(Step([longer, row], bucket, 2, block_size))


def load_into_memory(
    artifact: Artifact,
    options: LoadOptions,
    given_tensors: Mapping[str, torch.Tensor] | None,
    group: Group | None = None,
    handed: Handed | None = None,
) -> LoadedArtifact:
    """Check and load all but the cache; see :func:`glmc_runtime.load` for options and errors.
    ``handed`` are tensors of the checkpoint, from an engine's loader."""
    if options.guard_steps < 0:
        raise RequestError(
            "the number of guard steps is negative",
            expected="0 or more",
            found=str(options.guard_steps),
        )
    manifest, plans = artifact.manifest, artifact.plans
    check_versions(manifest.guards)
    check_vendor_calls(manifest.guards, plans.values())
    vendor = vendor_of(artifact, options.emulate)
    check_vendor_functions(manifest.guards, vendor)
    device = indexed(device_for(manifest.guards, vendor, options.device))
    check_triton(artifact.functions, device)
    entries = manifest.phases_of(artifact.rank)
    for phase in (PREFILL, DECODE):  # what engines drive
        manifest.phase(phase.key)
    for key in entries:
        check_plan(plans[key], manifest)

    watch = WeightWatch()
    if given_tensors is None:
        weights = load_weights(
            artifact, device, watch=watch, checkpoint=options.checkpoint, handed=handed
        )
    else:
        weights = given_weights(given_tensors, manifest, device)
    arena = Arena(arena_bytes(plans, entries), device)
    emulated = vendor is not None and vendor.emulated
    statistics = Statistics(emulated, options.timing)
    statistics.interpreted = is_interpreted(manifest.guards.target, device)
    if statistics.interpreted:
        say_interpreted()
    if vendor is not None and vendor.emulated:
        say_emulated(vendor.description)
    _LOG.info("%s runs on %s, arena %s", artifact.path.name, device, bytes_text(arena.size))
    statistics.vendor_calls = None if vendor is None else vendor.calls
    return LoadedArtifact(
        artifact,
        device,
        vendor,
        weights,
        arena,
        entries,
        {key: Buckets(key, entry.buckets) for key, entry in entries.items()},
        statistics,
        watch,
        options.guard_steps,
        options.profile_ranges,
        StreamOrder(device),
        Exclusive(),
        group,
    )


def on_host(group: Group | None) -> bool:
    """Whether the collectives of a group are calls of the host, which no device graph can hold."""
    return group is not None and group.process_group.name() == "gloo"


def vendor_of(artifact: Artifact, emulate: bool | None) -> Vendor | None:
    """The vendor of an artifact that calls one."""
    if not any(is_vendor(function) for function in artifact.functions):
        return None
    manifest = artifact.manifest
    return find_vendor(manifest.abi_profile, emulate, manifest.deterministic is not None)
