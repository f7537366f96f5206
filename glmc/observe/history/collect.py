"""Hears a compile and keeps its history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch.fx import Node

from glmc.ir.match import op_name
from glmc.ir.ops.registry import semantic_op
from glmc.ir.program import Program
from glmc.observe.dump.blocks import Block, blocks, in_order, like_layers, node_id, relative
from glmc.observe.dump.plan import argument_text, call_line, calls_by_layer, nodes_by_id, provenance
from glmc.observe.dump.stages import step
from glmc.observe.dump.values import Values, arguments
from glmc.observe.history.operands import Operands
from glmc.observe.history.record import (
    FORMAT,
    REPLAY,
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
        """The history of a compile; ``verdicts`` of a verifier are by step, and ``REPLAY``."""
        report = compiled.report
        made = self.history(
            compiled.job.source.shape.name, versions, report.expected_matches, report.seconds
        )
        steps = tuple(replace(each, verdict=verdicts.get(each.name)) for each in made.steps)
        plans = tuple(
            replace(
                _plan(plan, self._programs.get(key.phase), compiled, compiled.phases[key].program),
                verdict=verdicts.get(REPLAY),
            )
            for key, plan in compiled.plans.items()
        )
        return replace(made, target=compiled.job.target.name, steps=steps, plans=plans)

    def _anchors(self, name: str) -> tuple[str, ...]:
        named = next((each for each in self.passes if each.name == name), None)
        return named.anchors if isinstance(named, AnchorPass) else ()


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


def _plan(
    plan: PhasePlan, program: Program | None, compiled: Compiled, lowered: Program | None
) -> PlanHistory:
    options, nodes, layers = compiled.job.options, nodes_by_id(program), calls_by_layer(plan)
    sizes = plan.phase.largest(
        options.buckets[plan.name][-1], {"sequences": options.decode_buckets[-1]}
    )
    operands = Operands(plan, sizes, compiled.weights)
    computed = _computed(lowered)
    calls = {
        layer: tuple(_call(call, plan, nodes, operands, computed) for _, call in some)
        for layer, some in layers.items()
    }
    # Layers fold where they read the same, and where their calls take as many bytes.
    lines = {
        layer: tuple(
            f"{call_line(call, plan, nodes)} {made.weight_bytes} {made.buffer_bytes} "
            f"{made.operands}"
            for (_, call), made in zip(layers[layer], calls[layer], strict=True)
        )
        for layer in in_order(layers)
    }
    blocks = tuple(
        CallBlock(
            layer,
            like,
            calls[layer],
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
        blocks=blocks,
        buffers=tuple(_buffer(buffer, operands) for buffer in plan.buffers),
        segments=tuple((each.first, each.last, each.captured) for each in plan.segments),
        verdict=None,
        seconds=None,
    )


def _computed(program: Program | None) -> dict[str, tuple[str, ...]]:
    """What each node is computed of, by its id."""
    if program is None:
        return {}
    values = Values(program)

    def text(item: object) -> str:
        if isinstance(item, (list, tuple)):
            return f"[{', '.join(map(text, item))}]"
        return values.text(item.meta.get("val") if isinstance(item, Node) else item)

    return {
        each: (*map(text, node.args), *(() if semantic_op(node.target) else (text(node),)))
        for each, node in nodes_by_id(program).items()
        if node.op == "call_function"
    }


def _call(
    call: Call,
    plan: PhasePlan,
    nodes: dict[str, Node],
    operands: Operands,
    computed: Mapping[str, tuple[str, ...]],
) -> CallHistory:
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
        weight_bytes=operands.weight_bytes(call),
        buffer_bytes=operands.buffer_bytes(call),
        operands=computed.get(call.node, ()),
    )


def _buffer(buffer: Buffer, operands: Operands) -> BufferHistory:
    return BufferHistory(
        name=buffer.name,
        dtype=buffer.dtype,
        shape=f"[{', '.join(map(str, buffer.shape))}]",
        offset=str(buffer.offset),
        start=buffer.offset.evaluate(operands.sizes),
        bytes=operands.size(buffer),
        first=buffer.first,
        last=buffer.last,
    )
