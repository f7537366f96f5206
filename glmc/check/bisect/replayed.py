"""The first kernel call that computes something else than its node does.

Where every pass is right and the model is not, a lowering, a kernel, a packed weight or the memory
plan is to blame. The plan is compiled in float32 and replayed call by call, a ragged prefill and a
decode step, beside the program that it was made of. What a call leaves is compared with the value
of its node and then replaced by it, so that the next call starts from right values: whatever is
off is the call's own. Values that are still needed are looked at after every call, since a call may
write where it should not. Several ranks, as threads of this process, take each call together.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from glmc.check.calls.as_lowered import programs_as_lowered
from glmc.check.calls.judged import UNTOUCHED, in_order_of_experts, tolerance_of_calls
from glmc.check.calls.step_values import bound_to_step
from glmc.check.calls.written import WrittenValues, calls_for
from glmc.check.verify.execution import call_on_ranks
from glmc.check.verify.lockstep import RankThreads, machines_of
from glmc.check.verify.proof import SMALL_BLOCK
from glmc.check.verify.scope import model_weights
from glmc.check.verify.weights import ModelWeights
from glmc.compiled import Compiled, FrontEnd
from glmc.compiler import back_end, front_end, write_compiled
from glmc.config import CompileOptions
from glmc.errors import InternalError
from glmc.ir.program import Program
from glmc.ir.tolerance import Tolerance, compare
from glmc.job import resolve
from glmc.lowering.lower import Lowered
from glmc.lowering.target import LoweringOptions
from glmc.presets.catalog import ModelSource
from glmc_runtime.command.out_of_memory import shortage_behind
from glmc_runtime.engine.assemble import Machine
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.errors import GlmcError
from glmc_runtime.format.cache import SCRATCH_BLOCK, CacheKey
from glmc_runtime.format.phases import DECODE, PREFILL, PhaseKey
from glmc_runtime.format.plan import Call
from glmc_runtime.replay.step import ScheduledTokens, Step, blocks_for

# Targets whose plans every machine can replay.
REPLAYED = ("cpu", "xpu")
LENGTHS = (5, 1, 11)


@dataclass(frozen=True)
class WrongCall:
    """``value`` is the id of what is wrong. ``functions`` are the calls for ``node`` up to the one
    that left it so: what passes between them is the kernels' own and is not compared. ``rank`` is
    that of several which has it so."""

    phase: str
    functions: tuple[str, ...]
    node: str
    layer: int | None
    value: str
    error: float
    bound: float
    failure: str = ""
    rank: int | None = None

    @property
    def name(self) -> str:
        """The call, or the calls of which one is wrong."""
        names = " or ".join(dict.fromkeys(self.functions))
        return names or "the plan"

    def __str__(self) -> str:
        if self.failure:
            return f"{self.name} for {self.node} fails: {self.failure}"
        where = "" if self.rank is None else f" on rank {self.rank}"
        what = "" if self.value.partition("[")[0] == self.node else f"writes over {self.value}: "
        return (
            f"{self.name} for {self.node} in {self.phase}{where}: {what}off by {self.error:.3g} "
            f"where {self.bound:.3g} is allowed"
        )


def wrong_call(
    source: ModelSource, options: CompileOptions, front: FrontEnd | None = None
) -> WrongCall | None:
    """Compile in float32, replay call by call; None when every call computes its node.

    ``front`` is taken where it was made for the same program. Raises what a compile raises.
    """
    tokens = sum(LENGTHS)
    context = min(source.shape.maximum_positions, 2 * tokens)
    changed = replace(
        options,
        dtype="float32",
        block_size=SMALL_BLOCK,
        max_context=context,
        prefill_buckets=(tokens,),
        decode_buckets=(len(LENGTHS),),
    )
    job = resolve(source, changed)
    if front is None or front.job.front != job.front:
        front = front_end(job)
    compiled = back_end(front, job)
    weights = model_weights(job)
    with tempfile.TemporaryDirectory(prefix="glmc-bisect-") as folder:
        path = Path(folder) / "artifact"
        write_compiled(compiled, path, weights=weights)
        try:
            load = LoadOptions(
                emulate=True if job.target.name == "xpu" else None,
                kv_blocks=_blocks(job.lowering),
                guard_steps=0,
            )
            with machines_of(path, job.lowering.ranks, load) as (threads, loaded):
                machines = [machine for _, machine in loaded]
                programs = programs_as_lowered(front, job)
                return _Replay(compiled, weights, threads, machines).run(programs)
        except GlmcError as error:
            if shortage_behind(error) is not None:
                raise
            return _failed(error)


def _failed(error: GlmcError) -> WrongCall:
    """A call that can't be bound or that raises; the error names it."""
    words = dict(
        part.strip().split(" ", 1) for part in (error.place or "").split(",") if " " in part.strip()
    )
    named = {name: value.strip("'") for name, value in words.items()}
    layer = int(named["layer"]) if named.get("layer", "").isdigit() else None
    functions, node = (named["call"],) if "call" in named else (), named.get("node", "any node")
    return WrongCall("replay", functions, node, layer, node, math.inf, 0.0, error.message)


class _Replay:
    """The machines of all ranks, which take each call together."""

    def __init__(
        self,
        compiled: Compiled,
        weights: ModelWeights,
        threads: RankThreads,
        machines: Sequence[Machine],
    ) -> None:
        self.compiled, self.weights = compiled, weights
        self.size = compiled.job.lowering.block_size
        self.threads, self.machines = threads, machines
        self.caches: list[dict[CacheKey, Tensor]] = [{} for _ in machines]

    def run(self, programs: Mapping[PhaseKey, Program]) -> WrongCall | None:
        """Prefill of ragged sequences, then one more token for each."""
        generator = torch.Generator().manual_seed(7)
        vocabulary = self.compiled.job.source.shape.vocabulary
        chunks, following, first = [], [], SCRATCH_BLOCK + 1
        for length in LENGTHS:
            tokens = torch.randint(0, vocabulary, (length + 1,), generator=generator).tolist()
            count = blocks_for(length + 1, self.size)
            owned = list(range(first, first + count))
            first += count
            chunks.append(ScheduledTokens(tokens[:length], 0, owned))
            following.append(ScheduledTokens(tokens[length:], length, owned))
        steps = (
            (PREFILL.key, Step(chunks, sum(LENGTHS), len(LENGTHS), self.size)),
            (DECODE.key, Step(following, len(LENGTHS), len(LENGTHS), self.size)),
        )
        for key, step in steps:
            wrong = self._phase(key, programs[key], step)
            if wrong is not None:
                return wrong
        return None

    def _phase(self, key: PhaseKey, program: Program, step: Step) -> WrongCall | None:
        lowered, ranks = self.compiled.phases[key], range(len(self.machines))
        traces = [each.replays[key].trace(step) for each in self.machines]
        layout = self.compiled.job.target.cache_layout
        replays = [
            _RankReplay(program, lowered, values, self.caches[rank], self.machines[rank], layout)
            for rank, values in enumerate(self._values(program, step))
        ]

        def advance(rank: int) -> tuple[Call, dict[str, Any]] | None:
            with torch.inference_mode():
                return next(traces[rank], None)

        for position in range(len(lowered.plan.calls)):
            for rank, made in enumerate(self.threads.each(advance)):
                if made is None:
                    raise InternalError("a replay ends before its plan", place=f"call {position}")
                with torch.inference_mode():
                    wrong = replays[rank].look(position, *made)
                if wrong is not None:
                    return wrong if len(ranks) == 1 else replace(wrong, rank=rank)
        return None

    def _values(self, program: Program, step: Step) -> list[dict[Node, Any]]:
        """Every node of the program on each rank, on the inputs of the step."""
        options = self.compiled.job.lowering
        bound = [
            bound_to_step(program, step, options, self.weights, caches, _blocks(options), rank)
            for rank, caches in enumerate(self.caches)
        ]
        values: list[dict[Node, Any]] = [
            {node: each[node] for node in program.placeholders()} for each in bound
        ]
        with torch.inference_mode():
            for node in program.graph.nodes:
                if node.op == "call_function":
                    made = call_on_ranks(node, values)
                    for mine, value in zip(values, made, strict=True):
                        mine[node] = value
        return values


def _blocks(options: LoweringOptions) -> int:
    return options.blocks_per_sequence * len(LENGTHS) + 1


class _RankReplay:
    """One phase on one rank: what has been computed and is still needed."""

    def __init__(
        self,
        program: Program,
        lowered: Lowered,
        values: Mapping[Node, Any],
        caches: dict[CacheKey, Tensor],
        machine: Machine,
        cache_layout: str,
    ) -> None:
        self.program, self.lowered, self.values = program, lowered, values
        self.caches = caches
        nodes = {node.name: node for node in values}
        self.written = WrittenValues(lowered, nodes, machine.cache, cache_layout)

    def look(
        self, position: int, kernel_call: Call, arguments: Mapping[str, Any]
    ) -> WrongCall | None:
        """What is wrong after a call; what it left is then what it must be."""
        values = self.values
        whole = self.written.after(position, kernel_call, arguments, values)
        calls = tuple(each.function for each in calls_for(self.lowered, position))
        for node, (expected, actual) in in_order_of_experts(whole, values).items():
            tolerance = tolerance_of_calls(node, values)
            wrong = self._judge(kernel_call, calls, node, expected, actual, tolerance)
            if wrong is not None:
                return wrong
        for node, actual in whole.items():
            actual.copy_(values[node])
        for key, node in self.written.caches_after(position).items():
            self.caches[key] = values[node]
        for untouched, node in self.written.still_needed(position):
            calls = (kernel_call.function,)
            wrong = self._judge(kernel_call, calls, node, values[node], untouched, UNTOUCHED)
            if wrong is not None:
                return wrong
        return None

    def _judge(
        self,
        call: Call,
        functions: tuple[str, ...],
        node: Node,
        expected: Tensor,
        actual: Tensor,
        tolerance: Tolerance,
    ) -> WrongCall | None:
        deviation = compare(expected, actual.to(expected.dtype), tolerance)
        if deviation.allowed:
            return None
        value, error, bound = node.meta["id"], deviation.error, deviation.bound
        phase = self.program.phase
        return WrongCall(phase, functions, call.node, call.layer, value, error, bound)
