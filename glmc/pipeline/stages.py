"""The page: every pass, in order. Nothing else runs unasked.

capture    one layer of each kind, instantiated                     glmc/capture
normal     canonical, clean                                         one spelling for everything
fuse       rms_norm, rope, qk_norm, attention, qkv_merge,
           moe_gate, moe_ffn, gate_up_merge, silu_mul, shared_expert,
           add_rms_norm
page       kv_cache                                                 packed tokens, paged cache
phase      specialise                                               one graph each: prefill, decode
merge      norm_add_rms_norm, linear_swiglu, moe_ffn_shared,        where the target has one kernel
           rope_decode_attention                                    for both
lower      the target's table, then memory_plan                     glmc/lowering/lower.py

A compile may switch fusions off, reorder them and add passes of other distributions: selection.py.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from glmc.config import CompileOptions
from glmc.errors import Lines, LoweringError, MatchCountError
from glmc.ir.match import NearMiss, is_op
from glmc.ir.program import Program
from glmc.passes import (
    add_rms_norm,
    attention,
    canonical,
    clean,
    gate_up_merge,
    linear_swiglu,
    moe_ffn,
    moe_ffn_shared,
    moe_gate,
    norm_add_rms_norm,
    qk_norm,
    qkv_merge,
    rms_norm,
    rope,
    rope_decode_attention,
    shared_expert,
    silu_mul,
    specialise,
)
from glmc.passes.base import Match, Pass, match_at
from glmc.passes.kv_cache import NAME as NAME_OF_PAGING
from glmc.passes.kv_cache import KvCache
from glmc.pipeline.extensions import require_references, targets_of
from glmc.pipeline.selection import Selection, Selector

PASSES: tuple[Pass, ...] = (
    canonical.PASS,
    clean.PASS,
    rms_norm.PASS,
    rope.PASS,
    qk_norm.PASS,
    attention.PASS,
    qkv_merge.PASS,
    moe_gate.PASS,
    moe_ffn.PASS,
    gate_up_merge.PASS,
    silu_mul.PASS,
    shared_expert.PASS,
    add_rms_norm.PASS,
)

# Each makes the op of its name out of two neighbours. They run on a copy of a phase, and only those
# whose op the target has a rule for: to be rid of a merge is to be rid of that rule.
MERGES: tuple[Pass, ...] = (
    norm_add_rms_norm.PASS,
    linear_swiglu.PASS,
    moe_ffn_shared.PASS,
    rope_decode_attention.PASS,
)

# What no compile can do without, and why.
FIXED: Mapping[str, str] = MappingProxyType(
    {
        canonical.NAME: "every other pass reads its spelling",
        clean.NAME: "the other passes don't look through what it removes",
        NAME_OF_PAGING: "the runtime replays a graph over its cache",
        specialise.NAME: "each phase has a plan of its own",
        "memory_plan": "a plan needs a place for each buffer",
    }
)
# Passes that find nothing, or less, where one of these was switched off.
NEEDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "qk_norm": ("rms_norm", "rope"),
        "qkv_merge": ("rms_norm", "rope", "attention"),
        "moe_ffn": ("moe_gate",),
        "shared_expert": ("moe_gate", "moe_ffn", "gate_up_merge"),
        "add_rms_norm": ("rms_norm",),
    }
)


@dataclass(frozen=True)
class PassRecord:
    """What one pass did to one program. ``seconds`` is wall time; ``budget`` is that of an
    approximate pass; ``evaluations`` are the instances that each kind of region was run as."""

    name: str
    numerics: str
    seconds: float
    nodes_before: int
    nodes_after: int
    matches: tuple[Match, ...]
    near_misses: tuple[NearMiss, ...]
    detail: Mapping[str, Any] = field(default_factory=dict)
    budget: float = 0.0
    evaluations: tuple[str, ...] = ()
    evaluation_seconds: float = 0.0


@dataclass(frozen=True)
class Phases:
    """The two phase programs and the record of the road to them."""

    prefill: Program
    decode: Program
    records: tuple[PassRecord, ...]


Watch = Callable[[str, Program], None]


def run_pass(one: Pass, program: Program) -> PassRecord:
    """Run a pass on a program in place and take its time and counts."""
    called = None if one in (*PASSES, *MERGES) else targets_of(program.graph)
    before, start = len(program.graph.nodes), time.perf_counter()
    result = one.run(program)
    if called is not None:
        require_references(one.name, program.graph, called)
    record = PassRecord(
        one.name,
        one.numerics.value,
        time.perf_counter() - start,
        before,
        len(program.graph.nodes),
        tuple(result.matches),
        tuple(result.near_misses),
        result.detail,
        getattr(one, "budget", 0.0),
        tuple(result.evaluations),
        result.evaluation_seconds,
    )
    program.notes["record"] = record  # for whoever watches
    return record


def selection(options: CompileOptions) -> Selection:
    """What these options choose; raises UsageError and ExtensionError."""
    return Selector(PASSES, FIXED).select(options)


def still_expected(expected: Mapping[str, int], chosen: Selection) -> dict[str, int]:
    """The counts that hold although passes are off or share their matches with a user's pass."""
    unsure = {*chosen.off, *chosen.uncounted}
    unsure |= {name for name, needs in NEEDS.items() if unsure & set(needs)}
    return {name: wanted for name, wanted in expected.items() if name not in unsure}


def run(program: Program, block_size: int, watch: Watch = lambda name, program: None) -> Phases:
    """From the captured program to both phases; ``watch`` sees the program after each pass."""
    return page(program, block_size, fuse(program, watch), watch)


def fuse(
    program: Program,
    watch: Watch = lambda name, program: None,
    passes: tuple[Pass, ...] = PASSES,
) -> tuple[PassRecord, ...]:
    """The passes over the stateless program; nothing is refused here, only missed."""
    records = []
    for one in passes:
        records.append(run_pass(one, program))
        watch(one.name, program)
    return tuple(records)


def page(
    program: Program,
    block_size: int,
    fused: tuple[PassRecord, ...],
    watch: Watch = lambda name, program: None,
) -> Phases:
    """From the fused program to both phases; raises LoweringError for what can't be paged."""
    records = [*fused, run_pass(KvCache(block_size), program)]
    watch(records[-1].name, program)
    start = time.perf_counter()
    prefill, decode = specialise.prefill(program), specialise.decode(program)
    result = specialise.require_same(program, prefill, decode)
    decoded = [node for node in decode.graph.nodes if is_op(node, "glmc.decode_attention")]
    records.append(
        PassRecord(
            specialise.NAME,
            specialise.NUMERICS.value,
            time.perf_counter() - start,
            len(program.graph.nodes),
            len(decode.graph.nodes),
            tuple(match_at(node) for node in decoded),
            (),
            evaluations=tuple(result.evaluations),
            evaluation_seconds=result.evaluation_seconds,
        )
    )
    watch("prefill", prefill)
    watch("decode", decode)
    return Phases(prefill, decode, tuple(records))


def merge(program: Program, ops: Container[str]) -> tuple[Program, tuple[PassRecord, ...]]:
    """A phase with the merges whose op is among ``ops``; ``program`` itself stays as it is."""
    wanted = [one for one in MERGES if one.name in ops]
    if not wanted:
        return program, ()
    merged = program.copy()
    return merged, tuple(run_pass(one, merged) for one in wanted)


def check_matches(records: tuple[PassRecord, ...], expected: Mapping[str, int]) -> list[str]:
    """Compare match counts with the model's; returns one line per pass that differs."""
    ran = {record.name for record in records}
    problems = [
        f"{name}: expected {wanted}, found 0 (the pass is not in the pipeline)"
        for name, wanted in expected.items()
        if wanted and name not in ran
    ]
    for record in records:
        wanted = expected.get(record.name)
        if wanted is None or wanted == len(record.matches):
            continue
        reasons = [
            f"layer {miss.layer}: {miss.node}: {miss.condition} {miss.source}".rstrip()
            for miss in record.near_misses
        ]
        shown = "; ".join(reasons[:3]) or "no near miss was seen"
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        problems.append(
            f"{record.name}: expected {wanted}, found {len(record.matches)}"
            f"{_poor_layers(record, records)} ({shown}{more})"
        )
    return problems


def _poor_layers(record: PassRecord, records: tuple[PassRecord, ...]) -> str:
    """The layers with fewer matches of this pass than the richest layer has, as a phrase."""
    layers = {match.layer for other in records for match in other.matches} - {None}
    counts = Counter(match.layer for match in record.matches)
    most = max((counts[layer] for layer in layers), default=0)
    poor = sorted(layer for layer in layers if layer is not None and counts[layer] < max(most, 1))
    if not poor:
        return ""
    named = ", ".join(map(str, poor[:12])) + (" ..." if len(poor) > 12 else "")
    return f", fewest in layer{'s' if len(poor) > 1 else ''} {named}"


def before_paging(expected: Mapping[str, int]) -> dict[str, int]:
    """The counts of the passes that ``fuse`` runs."""
    later = (NAME_OF_PAGING, specialise.NAME)
    return {name: wanted for name, wanted in expected.items() if name not in later}


def no_plain_form(
    error: LoweringError,
    records: tuple[PassRecord, ...],
    expected: Mapping[str, int],
    off: tuple[str, ...] = (),
) -> LoweringError:
    """``error`` with the lost fusions that led to it, or the passes that were switched off; the
    same error when there are neither."""
    lost = check_matches(records, before_paging(expected))
    if off and not lost:
        return LoweringError(
            error.message,
            place=error.place,
            expected=error.expected,
            found=Lines.of(filter(None, (error.found, f"switched off: {', '.join(off)}"))),
            remedy="leave on what is switched off, or add a pass that does its work",
        )
    if not lost:
        return error
    return LoweringError(
        "this fusion is required: no unfused implementation exists for the target",
        place=error.place,
        expected=f"matches of {', '.join(line.split(':', maxsplit=1)[0] for line in lost)}",
        found=Lines.of((f"{error.message}: {error.found or error.expected}", *lost)),
        remedy="report the model and the transformers version, with the reasons above",
    )


def require_matches(records: tuple[PassRecord, ...], expected: Mapping[str, int]) -> None:
    """Raise MatchCountError when a pass found another number of matches than the model has."""
    problems = check_matches(records, expected)
    if problems:
        raise MatchCountError(
            "unexpected number of fusions",
            place="; ".join(problem.split(":", maxsplit=1)[0] for problem in problems),
            expected="the counts that this model's config implies",
            found=Lines.of(problems),
            remedy="report the model and transformers version, or go on with --allow-missing",
        )
