"""The backend: ``torch.compile(model, backend="kunlun")``.

Dynamo calls it once per graph. The graph goes through what ``glmc compile`` does: normal form, the
passes of ``pipeline.py``, the target's rules, a memory plan, a replay; only the end differs, where
the caller's tensors are bound instead of an artifact's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import GraphModule

from glmc.backends import target_by_name
from glmc.dynamo.compile.checks import (
    eager_experts_in,
    first_call,
    refuse_gradients,
    strided_reader,
)
from glmc.dynamo.compile.lower import TracedPlan, lower_traced
from glmc.dynamo.compile.normal_form import Traced, normal_form
from glmc.dynamo.device import device_of, refuse_capture, refuse_device, target_of
from glmc.dynamo.options import DynamoOptions, read_options
from glmc.dynamo.run.device_graph import (
    CachedDeviceGraph,
    capture_blockers,
    capture_for,
    in_host_memory,
)
from glmc.dynamo.run.prove import Verified
from glmc.dynamo.run.replay import TracedReplay
from glmc.dynamo.run.weights import LiveWeights
from glmc.dynamo.say import log_graph, log_recompile, warn_once
from glmc.dynamo.watch import GraphDump
from glmc.errors import UsageError
from glmc.lowering.target import LoweringOptions
from glmc.observe.logged import Logged
from glmc.pipeline import runner
from glmc.pipeline.events import Observers, StepDone
from glmc.pipeline.records import PassRecord
from glmc.pipeline.stages import FUSE
from glmc_runtime.kernels import is_vendor
from glmc_runtime.kernels.interpreter import check_triton, is_interpreted, say_interpreted
from glmc_runtime.kernels.vendor import find_vendor, say_emulated


@dataclass(frozen=True)
class CompiledGraph:
    """One graph of Dynamo after its compile: what the passes did and what replays."""

    target: str
    records: tuple[PassRecord, ...]
    plan: TracedPlan
    replay: TracedReplay
    seconds: Mapping[str, float]
    emulated: bool
    broken: str | None
    """Why Dynamo ended the graph here, with the line of the program; None at the end of it."""
    function: Callable[..., Any]
    """What Dynamo calls: the replay, or one that is verified first."""


Listener = Callable[[CompiledGraph], None]
LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())
"""Called with each graph that is compiled, such as by ``explain``."""


def kunlun(
    module: GraphModule,
    examples: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compile one graph of Dynamo; see :class:`DynamoOptions` for ``options``.

    Raises UsageError for an unknown option, a mode or a graph that needs gradients, CaptureError
    and LoweringError for what can't be compiled.
    """
    if mode not in (None, "default"):
        raise UsageError(
            f"backend 'kunlun' has no mode '{mode}'",
            place="torch.compile(..., mode=...)",
            expected="no mode; what can be chosen is in options",
            found=mode,
            remedy="leave mode out; in a CompileConfig of transformers say mode='default'",
        )
    return compile_graph(module, examples, read_options(options)).function


def compile_graph(
    module: GraphModule, examples: Sequence[Any], options: DynamoOptions
) -> CompiledGraph:
    """Compile one graph, from Dynamo's module to the replay."""
    refuse_gradients(module, examples)
    log_recompile()
    place = eager_experts_in(module)
    if place is not None:
        warn_once(place)
    device = device_of(examples)
    refuse_capture(options, device)
    name = options.target or target_of(device)
    refuse_device(name, device)
    target = target_by_name(name)
    start = time.perf_counter()
    traced = normal_form(module, examples)
    captured = time.perf_counter()
    dump = GraphDump(options.dump)
    dump.observe(StepDone("normal", "normal", traced.program))
    records = runner.fuse(traced.program, Observers(dump, Logged()))
    merged, more = runner.merge(traced.program, target.rules, after=FUSE)
    if more:
        traced, records = replace(traced, program=merged), (*records, *more)
        dump.observe(StepDone("merged", "merge", merged))
    fused = time.perf_counter()
    lowering = LoweringOptions(
        dtype=traced.program.dtype,
        max_context=traced.program.model.maximum_positions,
        block_size=16,
        max_sequences=1,
        max_tokens=1,
        abi_profile=options.abi_profile if name == "xpu" else None,
    )
    declined: dict[str, str] = {}
    first = first_call(examples)
    while True:
        plan = lower_traced(traced, target, lowering, declined)
        check_triton({call.function for call in plan.calls}, device)
        replay = _replay(module, examples, options, traced, plan, device)
        refused = None if first is None else replay.refused(first)
        if refused is None or refused[0].node in declined:
            break  # what ATen refuses as well, the program's own code does too
        declined[refused[0].node] = refused[1].message
    lowered = time.perf_counter()
    emulated = replay.emulated
    named = [item.name for item in traced.placeholders]
    seconds = {
        "normal form": captured - start,
        "passes": fused - captured,
        "lowering": lowered - fused,
    }
    if is_interpreted(name, device):
        say_interpreted()
    dump.planned(plan, traced.program, name, emulated)
    function: Callable[..., Any] = replay
    if options.verify:
        function = Verified(replay, module.forward, named, len(plan.calls))
    broken = _break_of(module)
    log_graph(f"{name} (emulated)" if emulated else name, records, plan, seconds, broken)
    compiled = CompiledGraph(name, records, plan, replay, seconds, emulated, broken, function)
    for listener in LISTENERS.get():
        listener(compiled)
    return compiled


def _replay(
    module: GraphModule,
    examples: Sequence[Any],
    options: DynamoOptions,
    traced: Traced,
    plan: TracedPlan,
    device: torch.device,
) -> TracedReplay:
    calls_vendor = any(is_vendor(call.function) for call in plan.calls)
    vendor = find_vendor(options.abi_profile, None) if calls_vendor else None
    if vendor is not None and vendor.emulated:
        say_emulated(vendor.description)
    constants = {
        name: value.to(device) for name, value in {**traced.constants, **plan.constants}.items()
    }
    weights = LiveWeights(plan.weights, traced.placeholders, constants, device)
    hosts = in_host_memory(traced.placeholders, examples, traced.mutated, device)
    blockers = capture_blockers(traced.program, hosts)
    emulated = vendor is not None and vendor.emulated
    graph = CachedDeviceGraph(
        capture_for(device, options.graph_capture, blockers, emulated),
        required=bool(options.graph_capture),
    )
    reader = strided_reader(traced.program)
    if reader is not None:
        warn_once(reader)
    return TracedReplay(
        plan,
        traced.placeholders,
        frozenset(traced.mutated),
        weights,
        device,
        vendor,
        module.forward,
        graph,
        left=reader is not None,
    )


def _break_of(module: GraphModule) -> str | None:
    reason = getattr(module, "compile_subgraph_reason", None)
    if reason is None or not reason.graph_break:
        return None
    lines = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reason.user_stack[-1:]]
    first = str(reason.reason).strip().splitlines()[0]
    return " ".join((first, *lines))
