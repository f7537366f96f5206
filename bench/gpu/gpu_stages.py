"""What a decode step is made of: each kind of call alone, in a device graph over all its layers.

The calls of one kind follow each other through the layers, so weights are never in the cache again.
Each is bound to activations of its own, random ones, and to the weights, the cache and the step
inputs of the session.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.gpu.gpu_ours import Prepared, filled, prepared, released, replay_times
from bench.gpu.gpu_peers import Plan
from bench.gpu.gpu_results import Results
from bench.gpu.gpu_timing import captured, device_times
from bench.models import BenchModel
from glmc_runtime.engine.sequences import Sequence
from glmc_runtime.format.phases import DECODE
from glmc_runtime.format.plan import BufferArgument, CacheArgument, Call, WeightArgument
from glmc_runtime.generate.session import Session
from glmc_runtime.kernels import find_binder

# Written and read within one call: a better kernel would not have them.
_SCRATCH = frozenset({"merged", "logits"})
MOST_LAUNCHES = {"9b": 7, "air": 9}


@dataclass(frozen=True)
class Cost:
    """What one call must move and compute."""

    bytes: float
    operations: float


@dataclass
class Stage:
    """All calls of one kind: positions in the plan, in the order of the layers."""

    function: str
    module: str
    positions: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.function.partition('.')[2]} {self.module}"


def stages_of(calls: tuple[Call, ...]) -> list[Stage]:
    """Kinds of calls in the order of the step: by function and by module within the layer."""
    stages: dict[tuple[str, str], Stage] = {}
    for position, call in enumerate(calls):
        module = call.module
        if call.layer is not None:
            module = module.partition(f".{call.layer}.")[2]
        stage = stages.setdefault((call.function, module), Stage(call.function, module))
        stage.positions.append(position)
    return list(stages.values())


class _Activations:
    """Random stand-ins for what is in the arena, one for each piece of it."""

    def __init__(self, experts: int) -> None:
        self._experts = experts
        self._made: dict[tuple[int, torch.Size, torch.dtype], Tensor] = {}

    def of(self, name: str, tensor: Tensor) -> Tensor:
        key = (tensor.data_ptr(), tensor.shape, tensor.dtype)
        if key not in self._made:
            self._made[key] = self._random(name, tensor)
        return self._made[key]

    def _random(self, name: str, tensor: Tensor) -> Tensor:
        if name == "ids" and self._experts:
            scores = torch.rand(tensor.shape[0], self._experts, device=tensor.device)
            return scores.topk(tensor.shape[1]).indices.to(tensor.dtype)
        if name == "weights":
            return torch.full_like(tensor, 1 / tensor.shape[1])
        if tensor.dtype.is_floating_point:
            return torch.randn_like(tensor)
        return torch.zeros_like(tensor)


def _is_scratch(call: Call, name: str) -> bool:
    return name in _SCRATCH and not call.function.endswith("greedy")


def cost(call: Call, values: dict[str, Any], lengths: list[int], block_size: int) -> Cost:
    """Bytes and operations of a call that is bound to ``values``.

    ``lengths`` are the tokens in the cache of each sequence, new ones included. Weights count once,
    of experts those that ids name, of tables the rows that are looked up.
    """
    read = operations = 0.0
    out = values["out"] if "out" in values else values.get("weights")
    rows = out.shape[0] if isinstance(out, Tensor) else len(lengths)
    attends = "block_tables" in values
    for name, argument in call.arguments.items():
        value = values[name]
        if not isinstance(value, Tensor):
            continue
        if isinstance(argument, CacheArgument):
            token = value[0].nbytes / block_size
            read += (sum(lengths) if attends else rows) * token
        elif isinstance(argument, WeightArgument):
            if name == "cos_sin" or call.function.endswith("embedding"):
                read += rows * value[0].nbytes
            elif value.dim() == 3:
                used = len(values["ids"].unique())
                read += used * value[0].nbytes
                operations += 2.0 * values["ids"].numel() * value[0].numel()
            else:
                read += value.nbytes
                operations += 2.0 * rows * value.numel() if value.dim() == 2 else 0.0
        elif isinstance(argument, BufferArgument) and not _is_scratch(call, name):
            read += value.nbytes
    if attends and isinstance(out, Tensor):
        operations += 4.0 * out[0].numel() * sum(lengths)
    return Cost(read, operations)


@torch.inference_mode()
def measure_stage(session: Session, ready: Prepared, stage: Stage, plan: Plan) -> dict[str, Any]:
    """Times per call, launches per call, cost per call."""
    replay = session._replays[DECODE.key]
    calls = session.artifact.plans[DECODE.key].calls
    bound = [
        (calls[place], replay._binder.arguments(place, ready.symbols)) for place in stage.positions
    ]
    experts = max(
        (int(values["gate_up"].shape[0]) for _, values in bound if "gate_up" in values), default=0
    )
    activations, thunks, costs = _Activations(experts), [], []
    lengths, size = ready.step.column("context_lengths"), session.manifest.cache.block_size
    for call, values in bound:
        mine = {
            name: activations.of(name, value)
            if isinstance(call.arguments[name], BufferArgument)
            else value
            for name, value in values.items()
        }
        costs.append(cost(call, mine, lengths, size))
        thunks.append(find_binder(call.function)(mine))
    graph = captured(thunks, session.device)
    count = len(thunks)
    times = device_times(graph.replay, session.device, 5, 1 if count > 8 else 4)
    return {
        "times": [value / count for value in times],
        "launches": None if graph.nodes is None else graph.nodes / count,
        "cost": Cost(
            statistics.fmean(item.bytes for item in costs),
            statistics.fmean(item.operations for item in costs),
        ),
    }


def stages(results: Results, model: BenchModel, session: Session, plan: Plan) -> None:
    """Measure every kind of call of a decode step, and hold their sum against the whole."""
    sequences = filled(model, session, plan.batch, plan.context - 1)
    tokens = [5 + row for row in range(plan.batch)]
    whole = statistics.median(replay_times(session, prepared(session, sequences, tokens), plan))
    calls = session.artifact.plans[DECODE.key].calls
    last = max(call.layer for call in calls if call.layer is not None)
    total, launches, unknown = 0.0, 0.0, False
    by_layer: dict[int | None, float] = defaultdict(float)
    for stage in stages_of(calls):
        measured = results.attempt(
            f"{model.key} stage {stage.name}",
            lambda stage=stage: _one(results, model, session, sequences, tokens, stage, plan),
        )
        if measured is None:
            continue
        count = len(stage.positions)
        total += measured["ms"] * count
        unknown |= measured["launches"] is None
        each = measured["launches"] or 1.0
        launches += each * count
        for place in stage.positions:
            by_layer[calls[place].layer] += each
    results.time(
        [total],
        model=model.key,
        what="stages",
        peer="glmc",
        size=plan.batch,
        read=model.step_bytes(plan.batch, plan.context),
        context=plan.context,
        whole_ms=whole,
        launches=launches,
    )
    most = MOST_LAUNCHES[model.key]
    results.check(
        f"{model.key} launches of a decode layer, batch {plan.batch}",
        by_layer[last] <= most,
        launches=by_layer[last],
        limit=most,
        counted="calls of the plan" if unknown else "nodes of device graphs",
    )
    released(session, sequences)


def _one(
    results: Results,
    model: BenchModel,
    session: Session,
    sequences: list[Sequence],
    tokens: list[int],
    stage: Stage,
    plan: Plan,
) -> dict[str, Any]:
    # Again for each stage: the step's inputs must be in place.
    ready = prepared(session, sequences, tokens)
    measured = measure_stage(session, ready, stage, plan)
    return results.time(
        measured["times"],
        model=model.key,
        what="stage",
        peer="glmc",
        size=plan.batch,
        read=measured["cost"].bytes,
        operations=measured["cost"].operations,
        context=plan.context,
        stage=stage.name,
        calls=len(stage.positions),
        in_layers=session.artifact.plans[DECODE.key].calls[stage.positions[0]].layer is not None,
        launches=measured["launches"],
    )
