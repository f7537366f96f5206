"""Put an artifact into memory: guards, weights, cache, arena, inputs, and a replay per phase."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from glmc_runtime.constants import GUARD_STEPS
from glmc_runtime.engine.exclusive import Exclusive
from glmc_runtime.errors import ArtifactError, RequestError
from glmc_runtime.format.cache import SCRATCH_BLOCK
from glmc_runtime.kernels import is_vendor
from glmc_runtime.kernels.interpreter import INTERPRETED_NOTICE, check_triton, is_interpreted
from glmc_runtime.kernels.vendor import EMULATED_NOTICE, Vendor, find_vendor
from glmc_runtime.loading.check import check_plan
from glmc_runtime.loading.guards import (
    check_vendor_calls,
    check_vendor_functions,
    check_versions,
    device_for,
)
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.loading.weights import given_weights, load_weights
from glmc_runtime.replay.arena import Arena
from glmc_runtime.replay.bind import Memory, PhaseBinder
from glmc_runtime.replay.buckets import Buckets
from glmc_runtime.replay.cache import KVCache, choose_block_count
from glmc_runtime.replay.device_order import StreamOrder, indexed
from glmc_runtime.replay.graph import graphs_for
from glmc_runtime.replay.inputs import StepInputs
from glmc_runtime.replay.phase import PhaseReplay
from glmc_runtime.replay.statistics import Statistics
from glmc_runtime.replay.step import ScheduledTokens, Step
from glmc_runtime.replay.weight_watch import WeightWatch

PREFILL_BINDINGS_KEPT = 64


@dataclass(frozen=True)
class Machine:
    """Everything that a session runs on. ``replays`` is by phase; ``exclusive`` keeps the steps of
    several threads apart, and ``stream_order`` orders those of several streams of a device."""

    device: torch.device
    cache: KVCache
    replays: dict[str, PhaseReplay]
    prefill_buckets: Buckets
    decode_buckets: Buckets
    max_context: int
    statistics: Statistics
    stream_order: StreamOrder
    exclusive: Exclusive


def assemble(
    artifact: Artifact,
    emulate: bool | None,
    kv_blocks: int | None,
    kv_memory_bytes: int | None,
    timing: bool,
    device_name: str | None = None,
    guard_steps: int = GUARD_STEPS,
    profile_ranges: bool = False,
    given_tensors: Mapping[str, torch.Tensor] | None = None,
) -> Machine:
    """Check, load and bind; see :func:`glmc_runtime.load` for the options and errors."""
    if guard_steps < 0:
        raise RequestError(
            "the number of guard steps is negative", expected="0 or more", found=str(guard_steps)
        )
    manifest, plans = artifact.manifest, artifact.plans
    check_versions(manifest.guards)
    check_vendor_calls(manifest.guards, plans.values())
    vendor = vendor_of(artifact, emulate)
    check_vendor_functions(manifest.guards, vendor)
    device = indexed(device_for(manifest.guards, vendor, device_name))
    check_triton(artifact.functions, device)
    prefill = Buckets("prefill", manifest.limits.prefill_buckets)
    decode = Buckets("decode", manifest.limits.decode_buckets)
    largest = {
        "prefill": {
            "tokens": prefill.largest,
            "sequences": min(prefill.largest, decode.largest),
        },
        "decode": {"tokens": decode.largest, "sequences": decode.largest},
    }
    for phase in largest:
        if phase not in plans:
            raise ArtifactError(f"the artifact has no phase '{phase}'", found=", ".join(plans))
        check_plan(plans[phase], manifest)

    watch = WeightWatch()
    if given_tensors is None:
        weights = load_weights(artifact.path, manifest, device, files=artifact.files, watch=watch)
    else:
        weights = given_weights(given_tensors, manifest, device)
    arena = Arena(max(plans[name].arena.evaluate(largest[name]) for name in largest), device)
    context = min(
        manifest.limits.max_context,
        manifest.cache.blocks_per_sequence * manifest.cache.block_size,
    )
    blocks = choose_block_count(
        manifest.cache,
        context,
        decode.largest,
        device,
        kv_blocks=kv_blocks,
        kv_memory_bytes=kv_memory_bytes,
    )
    cache = KVCache(manifest.cache, blocks, device)
    emulated = vendor is not None and vendor.emulated
    statistics = Statistics(emulated, timing)
    statistics.interpreted = is_interpreted(manifest.guards.target, device)
    if statistics.interpreted:
        print(f"glmc-runtime: {INTERPRETED_NOTICE} (by Triton's interpreter)", file=sys.stderr)
    statistics.vendor_calls = None if vendor is None else vendor.calls
    graphs = graphs_for(device, emulated)
    replays = {}
    for phase, sizes in largest.items():
        inputs = StepInputs(plans[phase].inputs, sizes, device)
        memory = Memory(arena, inputs, weights, cache, vendor)
        # A decode step has as many shapes as rows; prefill steps come in any shape.
        keep = PREFILL_BINDINGS_KEPT if phase == "prefill" else None
        binder = PhaseBinder(plans[phase], memory, keep, profile_ranges)
        replays[phase] = PhaseReplay(binder, inputs, graphs, statistics, keep, guard_steps, watch)
    stream_order = StreamOrder(device)
    if graphs.on_device:
        with stream_order.enter():
            _capture(replays["decode"], decode, manifest.cache.block_size)
    exclusive = Exclusive()
    return Machine(
        device, cache, replays, prefill, decode, context, statistics, stream_order, exclusive
    )


def vendor_of(artifact: Artifact, emulate: bool | None) -> Vendor | None:
    """The vendor of an artifact that calls one; says on stderr when it is the emulator."""
    if not any(is_vendor(function) for function in artifact.functions):
        return None
    vendor = find_vendor(artifact.manifest.abi_profile, emulate)
    if vendor.emulated:
        print(f"glmc-runtime: {EMULATED_NOTICE} ({vendor.description})", file=sys.stderr)
    return vendor


@torch.inference_mode()
def _capture(replay: PhaseReplay, buckets: Buckets, block_size: int) -> None:
    """Capture every decode bucket, the largest first; all rows write to the scratch block."""
    row = ScheduledTokens((0,), 0, [SCRATCH_BLOCK])
    for bucket in reversed(buckets.sizes):
        replay.capture(Step([row] * bucket, bucket, bucket, block_size))
