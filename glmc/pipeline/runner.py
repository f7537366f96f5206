"""Runs the stages of the pipeline: each pass is timed and recorded, and each step is told."""

from __future__ import annotations

import time
from collections.abc import Container

from glmc.ir.match import is_op
from glmc.ir.ops.collectives import is_collective
from glmc.ir.program import Program
from glmc.passes import specialise
from glmc.passes.base import Pass, match_at
from glmc.passes.kv_cache import KvCache
from glmc.passes.shard import Shard
from glmc.pipeline import stages
from glmc.pipeline.events import NOBODY, Observer, PassBegun, StepDone
from glmc.pipeline.extensions import require_references, targets_of
from glmc.pipeline.legal import require_legal
from glmc.pipeline.records import PassRecord, Phases
from glmc.pipeline.stages import MERGE, PAGE, PASSES, PHASE, SHARD, Stage, stage_of
from glmc_runtime.format.phases import DECODE


def run_pass(body: Pass, program: Program) -> PassRecord:
    """Run a pass on a program in place and take its time and counts."""
    called = None if body in (*stages.PASSES, *stages.MERGES) else targets_of(program.graph)
    before, start = len(program.graph.nodes), time.perf_counter()
    program.replaced = {}
    result = body.run(program)
    if called is not None:
        require_references(body.name, program.graph, called)
    return PassRecord(
        body.name,
        body.numerics.value,
        time.perf_counter() - start,
        before,
        len(program.graph.nodes),
        tuple(result.matches),
        tuple(result.near_misses),
        result.detail,
        getattr(body, "budget", 0.0),
        tuple(result.evaluations),
        result.evaluation_seconds,
    )


def run(program: Program, block_size: int, observer: Observer = NOBODY) -> Phases:
    """From the captured program to all phases; ``observer`` hears of each step."""
    return to_paged(program, block_size, fuse(program, observer), observer)


def fuse(
    program: Program,
    observer: Observer = NOBODY,
    passes: tuple[Pass, ...] = PASSES,
) -> tuple[PassRecord, ...]:
    """The passes over the stateless program; nothing is refused here, only missed."""
    records, ran = [], dict.fromkeys(stage_of(each.name) for each in passes[:1])
    for each in passes:
        here = stage_of(each.name)
        if here not in ran:
            require_legal(program, tuple(ran))
            ran[here] = None
        observer.observe(PassBegun(each.name))
        records.append(run_pass(each, program))
        observer.observe(StepDone(each.name, here.name, program, records[-1]))
    require_legal(program, tuple(ran))
    return tuple(records)


def to_paged(
    program: Program,
    block_size: int,
    fused: tuple[PassRecord, ...],
    observer: Observer = NOBODY,
    dealt: Shard | None = None,
) -> Phases:
    """From the fused program to all phases, of one rank where it is ``dealt``; raises LoweringError
    for what can't be paged."""
    observer.observe(PassBegun(KvCache.name))
    records = [*fused, run_pass(KvCache(block_size), program)]
    observer.observe(StepDone(KvCache.name, PAGE.name, program, records[-1]))
    require_legal(program, (PAGE,))
    paged: tuple[Stage, ...] = (PAGE,)
    if dealt is not None:
        observer.observe(PassBegun(dealt.name))
        records.append(run_pass(dealt, program))
        observer.observe(StepDone(dealt.name, SHARD.name, program, records[-1]))
        paged = (PAGE, SHARD)
        require_legal(program, paged)
    observer.observe(PassBegun(specialise.NAME))
    start = time.perf_counter()
    programs = {key: make(program) for key, make in specialise.PHASES.items()}
    result = specialise.require_same(program, programs)
    nodes = programs[DECODE.key].graph.nodes
    decoded = [node for node in nodes if is_op(node, "glmc.decode_attention")]
    records.append(
        PassRecord(
            specialise.NAME,
            specialise.NUMERICS.value,
            time.perf_counter() - start,
            len(program.graph.nodes),
            len(nodes),
            tuple(match_at(node) for node in decoded),
            (),
            evaluations=tuple(result.evaluations),
            evaluation_seconds=result.evaluation_seconds,
        )
    )
    for made in programs.values():
        observer.observe(StepDone(made.phase, PHASE.name, made))
        require_legal(made, (*paged[1:], PHASE))
    return Phases(programs, tuple(records))


def merge(
    program: Program, ops: Container[str], after: Stage = PHASE
) -> tuple[Program, tuple[PassRecord, ...]]:
    """What ``after`` left, with the merges whose op is among ``ops``; ``program`` itself stays.
    Those of a collective are for several ranks."""
    one = program.ranks == 1
    wanted = [each for each in stages.MERGES if each.name in ops]
    wanted = [each for each in wanted if not (one and is_collective(each.name))]
    if not wanted:
        return program, ()
    merged = program.copy()
    records = tuple(run_pass(each, merged) for each in wanted)
    require_legal(merged, (after, MERGE) if one else (SHARD, after, MERGE))
    return merged, records
