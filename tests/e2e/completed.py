"""The values of a step as ``values.json`` says where they are: of a replay, or of the program that
a plan was made of, for a target that this machine can't replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from glmc.check.calls.as_lowered import programs_as_lowered
from glmc.check.calls.step_values import bound_to_step
from glmc.check.verify.execution import call
from glmc.check.verify.lockstep import machines_of
from glmc.check.verify.weights import ModelWeights
from glmc.compiled import FrontEnd
from glmc.compiler import back_end, front_end, write_compiled
from glmc.config import CompileOptions
from glmc.ir.match import op_name
from glmc.job import Job, read_job
from glmc_runtime.engine.assemble import Machine
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.format.cache import SCRATCH_BLOCK, CacheKey
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.phases import DECODE, PREFILL, PhaseKey
from glmc_runtime.format.plan import BufferArgument
from glmc_runtime.format.values import PlanValue, Values, read_values
from glmc_runtime.loading.loader import listed_files
from glmc_runtime.record.shares import whole_of
from glmc_runtime.replay.step import ScheduledTokens, Step, blocks_for

BLOCK = 16
Completed = tuple[str, PlanValue, Tensor]
"""Phase, a row of ``values.json`` and the value that it is about: of what ranks have shares what
they have together, else what one of them has."""


def job_of(model: Path, target: str, lengths: tuple[int, ...], **more: object) -> Job:
    tokens = sum(lengths)
    options = CompileOptions(
        target=target,
        dtype="float32",
        block_size=BLOCK,
        max_context=2 * tokens,
        prefill_buckets=(tokens,),
        decode_buckets=(len(lengths),),
        **more,  # type: ignore[arg-type]
    )
    return read_job(model, options)


def steps_of(sequences: list[list[int]]) -> tuple[tuple[PhaseKey, Step], ...]:
    """All tokens of each sequence but the last, then those."""
    chunks, following, first = [], [], SCRATCH_BLOCK + 1
    for tokens in sequences:
        count = blocks_for(len(tokens), BLOCK)
        owned = list(range(first, first + count))
        first += count
        chunks.append(ScheduledTokens(tokens[:-1], 0, owned))
        following.append(ScheduledTokens(tokens[-1:], len(tokens) - 1, owned))
    total = sum(len(chunk.tokens) for chunk in chunks)
    return (
        (PREFILL.key, Step(chunks, total, len(chunks), BLOCK)),
        (DECODE.key, Step(following, len(chunks), len(chunks), BLOCK)),
    )


def completed(job: Job, sequences: list[list[int]], folder: Path) -> Iterator[Completed]:
    """The values of both phases' steps, caches left out."""
    front = front_end(job)
    compiled = back_end(front, job)
    path = folder / "artifact"
    write_compiled(compiled, path)
    values = read_values(listed_files(path)[1])
    if job.target.name == "cuda":
        yield from _interpreted(front, job, values, sequences)
        return
    emulate = True if job.target.name == "xpu" else None
    blocks = job.lowering.blocks_per_sequence * len(sequences) + 1
    load = LoadOptions(emulate=emulate, kv_blocks=blocks, guard_steps=0)
    with machines_of(path, job.lowering.ranks, load) as (threads, loaded):
        for key, step in steps_of(sequences):
            traces = [_Trace(machine, key, step) for _, machine in loaded]
            for position in range(len(compiled.phases[key].plan.calls)):
                threads.each(lambda rank, traces=traces: traces[rank].advance())  # type: ignore[misc]
                for value in values.phases[key.phase]:
                    if value.call == position and value.buffer is not None:
                        shares = [trace.value(value) for trace in traces]
                        if value.dealt is not None:
                            shares = [whole_of(value, shares).tensor]
                        for tensor in shares:
                            yield key.phase, value, tensor


@dataclass
class _Trace:
    machine: Machine
    key: PhaseKey
    step: Step
    views: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._calls = self.machine.replays[self.key].trace(self.step)

    def advance(self) -> None:
        with torch.inference_mode():
            made, arguments = next(self._calls)
        for name, argument in made.arguments.items():
            if isinstance(argument, BufferArgument):
                view, before = arguments[name], self.views.get(argument.buffer)
                if before is None or view.numel() >= before.numel():
                    self.views[argument.buffer] = view

    def value(self, value: PlanValue) -> Tensor:
        """As the row says, without what fills up the bucket."""
        assert value.buffer is not None
        shape = [Extent.parse(size).evaluate(self.step.real) for size in value.shape]
        flat = self.views[value.buffer].flatten()
        return flat[: prod(shape)].view(shape).clone()


def _interpreted(
    front: FrontEnd, job: Job, values: Values, sequences: list[list[int]]
) -> Iterator[Completed]:
    assert job.weights is not None
    weights, caches = ModelWeights(job.weights), dict[CacheKey, Tensor]()
    blocks = job.lowering.blocks_per_sequence * len(sequences) + 1
    programs = programs_as_lowered(front, job)
    for key, step in steps_of(sequences):
        program = programs[key]
        found: dict[Node, Any] = dict(
            bound_to_step(program, step, job.lowering, weights, caches, blocks)
        )
        for node in program.graph.nodes:
            if node.op == "call_function":
                found[node] = call(node, found)
        nodes = {(node.meta["id"], op_name(node)): node for node in program.graph.nodes}
        for value in values.phases[key.phase]:
            whole, _, index = value.node.rstrip("]").partition("[")
            maker = nodes.get((whole, f"glmc.{value.op}")) or nodes[whole, value.op]
            tensor = found[maker][int(index)] if index else found[maker]
            if value.cache is None:
                yield key.phase, value, tensor
            else:
                assert value.layer is not None
                caches[CacheKey(value.cache, value.layer)] = tensor
