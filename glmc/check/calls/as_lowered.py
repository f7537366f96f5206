"""The programs that plans are made of: with the merges that the target has kernels for."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch.fx import Node

from glmc.compiled import Compiled, FrontEnd
from glmc.ir import match as m
from glmc.ir.identity import without_identity
from glmc.ir.program import Program
from glmc.job import Job
from glmc.lowering.assemble import dtype_name
from glmc.lowering.liveness import Storage
from glmc.lowering.lower import Lowered
from glmc.pipeline import runner
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.plan import BufferArgument, CacheArgument
from glmc_runtime.format.tensor_key import OUTPUT, TensorKey
from glmc_runtime.format.values import PlanValue


def programs_as_lowered(front: FrontEnd, job: Job) -> dict[PhaseKey, Program]:
    """By phase; the nodes have the names that ``Lowered.outputs`` has."""
    programs = front.phases.programs.items()
    return {key: runner.merge(program, job.target.rules)[0] for key, program in programs}


@dataclass(frozen=True)
class LoweredProgram:
    """The program of a phase and what it was lowered to."""

    program: Program
    lowered: Lowered


def with_all_values(front: FrontEnd, compiled: Compiled) -> dict[PhaseKey, LoweredProgram]:
    """By phase, with a node for each value that the plan lists and for each cache that it writes.

    No node takes a result that no other one reads: the residual of the last layer, which the model
    has all the same, and a cache whose writer is who attends over it, which the next step reads.
    """
    programs = programs_as_lowered(front, compiled.job).items()
    return {key: _whole(program, compiled.phases[key]) for key, program in programs}


def _whole(program: Program, lowered: Lowered) -> LoweredProgram:
    missing = [*_listed(program, lowered), *_caches(program, lowered)]
    if not missing:
        return LoweredProgram(program, lowered)
    program = program.copy()
    nodes = {node.name: node for node in program.graph.nodes}
    outputs = {position: list(some) for position, some in lowered.outputs.items()}
    values = {value.node: value for value in lowered.values}
    for each in missing:
        maker = nodes[each.maker]
        taken = _take(program, maker, each.index)
        place = next(at for at, some in outputs.items() if _of(maker, some))
        outputs[place].append((taken.name, each.storage))
        values.setdefault(taken.meta["id"], _value(taken, place, each))
    whole = {position: tuple(some) for position, some in outputs.items()}
    return LoweredProgram(program, replace(lowered, outputs=whole, values=tuple(values.values())))


@dataclass(frozen=True)
class _Result:
    """Result ``index`` of the node named ``maker``, which no node takes."""

    maker: str
    index: int
    storage: BufferArgument | CacheArgument


def _listed(program: Program, lowered: Lowered) -> Iterator[_Result]:
    names = {node.meta["id"]: node.name for node in program.graph.nodes if "id" in node.meta}
    for value in lowered.values:
        maker, _, index = value.node.removesuffix("]").rpartition("[")
        if value.node not in names and value.buffer is not None:
            yield _Result(names[maker], int(index), BufferArgument(value.buffer))


def _caches(program: Program, lowered: Lowered) -> Iterator[_Result]:
    """Caches are the last results of an op, in the order in which they are operands."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.meta.get("val"), tuple):
            continue
        keys = [
            operand.meta["cache"].key
            for operand in node.all_input_nodes
            if operand.op == "placeholder" and "cache" in operand.meta
        ]
        first = len(node.meta["val"]) - len(keys)
        taken = {user.args[1] for user in node.users if m.is_op(user, "getitem")}
        for index, key in enumerate(keys, first):
            if index not in taken:
                yield _Result(node.name, index, CacheArgument(*key))


def _take(program: Program, maker: Node, index: int) -> Node:
    with program.graph.inserting_after(maker):
        taken = program.graph.call_function(operator.getitem, (maker, index))
    taken.meta = without_identity(maker.meta)
    taken.meta |= {"id": f"{maker.meta['id']}[{index}]", "val": maker.meta["val"][index]}
    return taken


def _of(maker: Node, outputs: Sequence[tuple[str, Storage]]) -> bool:
    """Whether some of the values that a call completes are results of the node."""
    names = {name for name, _ in outputs}
    return maker.name in names or any(user.name in names for user in maker.users)


def _value(taken: Node, call: int, result: _Result) -> PlanValue:
    meta, storage = taken.meta, result.storage
    op = m.op_name(taken.args[0]).removeprefix("glmc.")
    return PlanValue(
        call=call,
        node=meta["id"],
        op=op,
        module=meta["module"],
        layer=meta["layer"],
        dtype=dtype_name(m.dtype(taken)),
        shape=(),
        buffer=storage.buffer if isinstance(storage, BufferArgument) else None,
        cache=storage.cache if isinstance(storage, CacheArgument) else None,
        captured=None,
        keys=(TensorKey(meta["module"], op, 0, OUTPUT, str(result.index)),),
        source=meta.get("source") or "",
        passes=tuple(meta.get("passes", ())),
    )
