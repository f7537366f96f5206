"""Data of the page's script: the history with each text and each node stored once.

Rows are lists in a fixed order, texts and nodes are numbers of a table, and layers that read the
same stand once, so that a model of 92 layers is some hundred kilobytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from glmc.observe.history.record import (
    BlockHistory,
    CallBlock,
    CallHistory,
    History,
    MatchHistory,
    NodeHistory,
    PlanHistory,
    StepHistory,
)
from glmc.observe.page.artifact import ArtifactFacts
from glmc.observe.page.embedded import COMPILE
from glmc.observe.page.layers import layer_kinds
from glmc.observe.page.measured import Aligned, Timed
from glmc.observe.page.start import main_phase
from glmc.observe.page.verdict import Verdict, is_phase, rewrites
from glmc.passes import specialise


class _Tables:
    """The texts and nodes so far; each is numbered when it is first seen."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}
        self.nodes: dict[NodeHistory, int] = {}

    def text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))

    def all(self, texts: Iterable[str]) -> list[int]:
        return [self.text(text) for text in texts]

    def node(self, node: NodeHistory) -> int:
        return self.nodes.setdefault(node, len(self.nodes))


def page_data(
    history: History,
    verdict: Verdict,
    facts: ArtifactFacts | None = None,
    timed: Timed | None = None,
    aligned: Aligned | None = None,
) -> dict[str, Any]:
    """The data as plain JSON; the same history gives the same data."""
    tables = _Tables()
    main = main_phase(history)
    steps = [
        {**_step(step, tables), **_source(history.steps[:at], step)}
        for at, step in enumerate(history.steps)
    ]
    plans = [{**_plan(plan, tables), "seconds": _seconds(timed, plan)} for plan in history.plans]
    nodes = [_node(node, tables) for node in tables.nodes]
    return {
        "page": COMPILE,
        "model": history.model,
        "target": history.target,
        "prefix": f"{history.prefix}." if history.prefix else "",
        "main": main,
        "kinds": [list(kind.layers) for kind in layer_kinds(history, main)],
        "verdict": _verdict(verdict),
        "memory": None if facts is None else _memory(facts),
        "timed": None if timed is None else _timed(timed),
        "aligned": None if aligned is None else _aligned(aligned),
        "steps": steps,
        "plans": plans,
        "nodes": nodes,
        "strings": list(tables.texts),
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "counted": verdict.counted,
        "counts": verdict.counts,
        "proof": verdict.proof,
        "tensors": verdict.tensors,
        "command": verdict.command,
    }


def _memory(facts: ArtifactFacts) -> dict[str, int]:
    return {
        "weights": facts.weight_bytes,
        "cache": facts.cache_bytes,
        "token": facts.cache_token_bytes,
        "context": facts.limits.max_context,
        "sequences": facts.most_sequences,
    }


def _seconds(timed: Timed | None, plan: PlanHistory) -> list[float | None] | None:
    known = timed is not None and plan.phase in timed.phases
    return list(timed.phases[plan.phase].seconds) if timed is not None and known else None


def _timed(timed: Timed) -> dict[str, Any]:
    """But for the seconds, which are at their plans."""
    phases = {
        name: {"steps": phase.steps, "shown": phase.shown} for name, phase in timed.phases.items()
    }
    return {"label": timed.label, "said": timed.how, "page": timed.page, "phases": phases}


def _aligned(aligned: Aligned) -> dict[str, Any]:
    return {
        "expected": aligned.expected,
        "said": "emulated" if aligned.emulated else "",
        "first": aligned.first,
        "page": aligned.page,
        "nodes": {node: list(vars(error).values()) for node, error in aligned.nodes.items()},
    }


def _source(earlier: Sequence[StepHistory], step: StepHistory) -> dict[str, Any]:
    """The pass that a step's nodes name, and the step whose program it starts from: all phases are
    made by one pass, which is no step of its own, of the program before them."""
    pass_name = specialise.NAME if is_phase(step) else step.name
    before = [at for at, other in enumerate(earlier) if not is_phase(other)]
    return {
        "pass": pass_name,
        "from": before[-1] if before else None,
        "isPhase": is_phase(step),
        "rewrites": rewrites(step),
    }


def _node(node: NodeHistory, tables: _Tables) -> list[Any]:
    return [
        *tables.all((node.id, node.op, node.arguments)),
        tables.all(node.operands),
        *tables.all((node.value, node.module, node.source)),
        tables.all(node.origins),
        tables.all(node.passes),
    ]


def _step(step: StepHistory, tables: _Tables) -> dict[str, Any]:
    return {
        "number": step.number,
        "stage": step.stage,
        "name": step.name,
        "label": step.label,
        "numerics": step.numerics,
        "verdict": step.verdict,
        "seconds": step.seconds,
        "phase": step.phase,
        "before": step.nodes_before,
        "after": step.nodes_after,
        "expected": step.expected,
        "matches": _matches(step.matches),
        "near": [
            {
                "node": miss.node,
                "layer": miss.layer,
                "condition": miss.condition,
                "source": miss.source,
            }
            for miss in step.near_misses
        ],
        "blocks": [_block(block, tables) for block in step.blocks],
    }


def _matches(matches: Iterable[MatchHistory]) -> list[list[Any]]:
    """Each id with all its layers, ``None`` among them for what is outside."""
    layers: dict[str, list[int | None]] = defaultdict(list)
    for match in matches:
        layers[match.id].append(match.layer)
    return [[own, some] for own, some in layers.items()]


def _block(block: BlockHistory, tables: _Tables) -> dict[str, Any]:
    return {
        "layer": block.layer,
        "like": list(block.like),
        "nodes": [tables.node(node) for node in block.nodes],
    }


def _plan(plan: PlanHistory, tables: _Tables) -> dict[str, Any]:
    return {
        "phase": plan.phase,
        "tokens": plan.tokens,
        "sequences": plan.sequences,
        "arena": plan.arena,
        "arenaBytes": plan.arena_bytes,
        "blocks": [_calls(block, tables) for block in plan.blocks],
        "buffers": [
            [
                *tables.all((buffer.name, buffer.dtype, buffer.shape, buffer.offset)),
                *(buffer.start, buffer.bytes, buffer.first, buffer.last),
            ]
            for buffer in plan.buffers
        ],
        "segments": [list(segment) for segment in plan.segments],
        "verdict": plan.verdict,
    }


def _calls(block: CallBlock, tables: _Tables) -> dict[str, Any]:
    return {
        "layer": block.layer,
        "like": list(block.like),
        "calls": [_call(call, tables) for call in block.calls],
        "indices": [_runs(numbers) for numbers in block.indices],
    }


def _call(call: CallHistory, tables: _Tables) -> dict[str, Any]:
    return {
        "function": tables.text(call.function),
        "arguments": tables.text(call.arguments),
        "writes": tables.all(call.writes),
        "host": call.host,
        "op": tables.text(call.op),
        "node": tables.text(call.node),
        "source": tables.text(call.source),
        "origins": tables.all(call.origins),
        "passes": tables.all(call.passes),
        "weights": call.weight_bytes,
        "buffers": call.buffer_bytes,
    }


def _runs(numbers: tuple[int, ...]) -> list[list[int]]:
    """Ascending numbers as [first, count]: the calls of a layer mostly stand in one row."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][0] + runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    return runs
