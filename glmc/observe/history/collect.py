"""Hears a compile and keeps its history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from glmc.ir.match import op_name
from glmc.ir.program import Program
from glmc.observe.dump.blocks import Block, blocks, in_order, like_layers, node_id, relative
from glmc.observe.dump.plan import argument_text, call_line, calls_by_layer, nodes_by_id, provenance
from glmc.observe.dump.stages import PHASES, step
from glmc.observe.dump.values import Values, arguments
from glmc.observe.history.record import (
    FORMAT,
    BlockHistory,
    BufferHistory,
    CallBlock,
    CallHistory,
    History,
    MatchHistory,
    MissHistory,
    NodeHistory,
    PlanHistory,
    StepHistory,
)
from glmc.passes import specialise
from glmc.passes.base import AnchorPass, Pass
from glmc.pipeline.events import Event, StepDone
from glmc.pipeline.records import PassRecord
from glmc_runtime.format.plan import Buffer, Call, PhasePlan

if TYPE_CHECKING:
    from glmc.compiled import Compiled

PREFIX = "model.layers"


@dataclass
class HistoryCollector:
    """Hears the steps of a compile; :meth:`planned` makes the history of it.

    ``passes`` are those that run.
    """

    passes: Sequence[Pass]
    _steps: list[StepHistory] = field(default_factory=list)
    _programs: dict[str, Program] = field(default_factory=dict)

    def observe(self, event: Event) -> None:
        """Keep what a step has left."""
        if isinstance(event, StepDone):
            self._keep(event.name, event.program, event.record)

    def _keep(self, name: str, program: Program, record: PassRecord | None) -> None:
        self._programs[name] = program
        values, here = Values(program), step(name, tuple(each.name for each in self.passes))
        made = StepHistory(
            number=here.number,
            stage=here.stage,
            name=name,
            label=here.label,
            numerics=None,
            verdict=None,
            seconds=None,
            phase=program.phase,
            nodes_before=None,
            nodes_after=len(program.graph.nodes),
            anchors=self._anchors(name),
            expected=None,
            matches=(),
            near_misses=(),
            blocks=tuple(_block(block, values) for block in blocks(program, values)),
        )
        if record is not None:
            made = _with_record(made, record)
        self._steps.append(made)

    @property
    def names(self) -> tuple[str, ...]:
        """The steps that were watched."""
        return tuple(each.name for each in self._steps)

    def history(
        self,
        model: str,
        versions: Mapping[str, str],
        expected: Mapping[str, int],
        seconds: Mapping[str, float],
    ) -> History:
        """The history of a front end, without kernel calls."""
        steps = tuple(
            replace(
                each,
                expected=expected.get(each.name),
                seconds=each.seconds if each.name != "capture" else seconds.get("capture"),
            )
            for each in self._steps
        )
        return History(FORMAT, model, "", PREFIX, dict(versions), dict(expected), steps, ())

    def planned(
        self, compiled: Compiled, versions: Mapping[str, str], verdicts: Mapping[str, str]
    ) -> History:
        """The history of a compile; ``verdicts`` of a verifier are by pass."""
        report = compiled.report
        made = self.history(
            compiled.job.source.shape.name, versions, report.expected_matches, report.seconds
        )
        steps = tuple(replace(each, verdict=_verdict(each.name, verdicts)) for each in made.steps)
        plans = tuple(
            _plan(plan, self._programs.get(key.phase), compiled)
            for key, plan in compiled.plans.items()
        )
        return replace(made, target=compiled.job.target.name, steps=steps, plans=plans)

    def _anchors(self, name: str) -> tuple[str, ...]:
        named = next((each for each in self.passes if each.name == name), None)
        return named.anchors if isinstance(named, AnchorPass) else ()


def _verdict(name: str, verdicts: Mapping[str, str]) -> str | None:
    return verdicts.get(name, verdicts.get(specialise.NAME) if name in PHASES else None)


def _with_record(made: StepHistory, record: PassRecord) -> StepHistory:
    return replace(
        made,
        numerics=record.numerics,
        seconds=record.seconds,
        nodes_before=record.nodes_before,
        matches=tuple(
            MatchHistory(relative(match.node, match.layer), match.layer) for match in record.matches
        ),
        near_misses=tuple(
            MissHistory(
                *(miss.anchor, miss.node, miss.module, miss.layer, miss.condition, miss.source),
                miss.held,
            )
            for miss in record.near_misses
        ),
    )


def _block(block: Block, values: Values) -> BlockHistory:
    nodes = tuple(_node(node, block.layer, values) for node in block.nodes)
    return BlockHistory(block.layer, block.like, nodes)


def _node(node: Node, layer: int | None, values: Values) -> NodeHistory:
    def own(other: Node) -> str:
        return relative(node_id(other), layer)

    meta = node.meta
    kind = "weight" if "weight" in meta else "input" if "input" in meta else node.op
    return NodeHistory(
        id=own(node),
        op=op_name(node) or kind,
        arguments="" if node.op == "placeholder" else arguments(node, own),
        operands=tuple(own(other) for other in node.all_input_nodes),
        value=values.text(meta.get("val")),
        module=relative(str(meta.get("module") or ""), layer),
        source=str(meta.get("source") or ""),
        origins=tuple(relative(each, layer) for each in meta.get("origins", (node_id(node),))),
        passes=tuple(meta.get("passes", ())),
    )


def _plan(plan: PhasePlan, program: Program | None, compiled: Compiled) -> PlanHistory:
    options, nodes, layers = compiled.job.options, nodes_by_id(program), calls_by_layer(plan)
    sizes = plan.phase.largest(
        options.buckets[plan.name][-1], {"sequences": options.decode_buckets[-1]}
    )
    lines = {
        layer: tuple(call_line(call, plan, nodes) for _, call in layers[layer])
        for layer in in_order(layers)
    }
    made = tuple(
        CallBlock(
            layer,
            like,
            tuple(_call(call, plan, nodes) for _, call in layers[layer]),
            tuple(tuple(index for index, _ in layers[each]) for each in (layer, *like)),
        )
        for layer, like in like_layers(lines).items()
    )
    return PlanHistory(
        phase=plan.name,
        tokens=sizes["tokens"],
        sequences=sizes["sequences"],
        arena=str(plan.arena),
        arena_bytes=plan.arena.evaluate(sizes),
        blocks=made,
        buffers=tuple(_buffer(buffer, sizes) for buffer in plan.buffers),
        segments=tuple((each.first, each.last, each.captured) for each in plan.segments),
    )


def _call(call: Call, plan: PhasePlan, nodes: dict[str, Node]) -> CallHistory:
    known = provenance(call, nodes)
    values = (
        f"{name}={argument_text(value, plan, call.layer)}" for name, value in call.arguments.items()
    )
    return CallHistory(
        function=call.function,
        arguments=", ".join(values),
        writes=call.writes,
        host=call.host,
        op=call.origin,
        node=relative(call.node, call.layer),
        module=relative(call.module, call.layer),
        source=str(known["source"] or ""),
        origins=tuple(relative(each, call.layer) for each in known["origins"]),
        passes=tuple(known["passes"]),
    )


def _buffer(buffer: Buffer, sizes: Mapping[str, int]) -> BufferHistory:
    dtype: torch.dtype = getattr(torch, buffer.dtype)
    shape = (extent.evaluate(sizes) for extent in buffer.shape)
    return BufferHistory(
        name=buffer.name,
        dtype=buffer.dtype,
        shape=f"[{', '.join(map(str, buffer.shape))}]",
        offset=str(buffer.offset),
        start=buffer.offset.evaluate(sizes),
        bytes=prod(shape) * dtype.itemsize,
        first=buffer.first,
        last=buffer.last,
    )
