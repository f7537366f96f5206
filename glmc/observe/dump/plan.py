"""The kernel calls of a phase, each with the ids of the nodes that it came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch.fx import Node

from glmc.ir.program import Program
from glmc.observe.dump.blocks import in_order, like_layers, node_id, relative
from glmc.observe.dump.records import FORMAT, to_json
from glmc.observe.spans import spans
from glmc_runtime.format.plan import (
    Argument,
    BufferArgument,
    CacheArgument,
    Call,
    ExtentArgument,
    InputArgument,
    ListArgument,
    PhasePlan,
    ViewArgument,
    WeightArgument,
)
from glmc_runtime.format.plan_json import phase_to_json

_Origins = dict[str, Node]
_Layers = dict[int | None, list[tuple[int, Call]]]


def plan_text(header: Sequence[str], plan: PhasePlan, program: Program | None, fold: bool) -> str:
    """One line a call: function, arguments (``*`` marks what it writes), node and origins."""
    nodes, layers = nodes_by_id(program), calls_by_layer(plan)
    lines = {
        layer: tuple(call_line(call, plan, nodes) for _, call in layers[layer])
        for layer in in_order(layers)
    }
    like = like_layers(lines) if fold else {layer: () for layer in lines}
    text = [f"# {line}".rstrip() for line in header]
    text.append(f"# {len(plan.calls)} calls, {len(plan.buffers)} buffers, arena {plan.arena} bytes")
    for layer, same in like.items():
        title = "outside the layers" if layer is None else f"layer {layer}"
        numbers = spans(tuple(index for index, _ in layers[layer]))
        text += ["", f"{title}: {len(lines[layer])} calls, number {numbers}"]
        text += [f"  {line}" for line in lines[layer]]
        if same:
            word = "layers" if len(same) > 1 else "layer"
            text.append(f"{word} {spans(same)} like layer {layer}")
    return "\n".join(text) + "\n"


def plan_record(facts: dict[str, Any], plan: PhasePlan, program: Program | None, fold: bool) -> str:
    """The calls as the artifact holds them, with index, origins, passes and source."""
    nodes, layers = nodes_by_id(program), calls_by_layer(plan)
    lines = {
        layer: tuple(call_line(call, plan, nodes) for _, call in layers[layer]) for layer in layers
    }
    like = like_layers(lines) if fold else {layer: () for layer in in_order(lines)}
    calls = phase_to_json(plan)["calls"]
    blocks = [
        {
            "layer": layer,
            "like": list(same),
            "calls": [
                {"index": index, **calls[index], **provenance(call, nodes)}
                for index, call in layers[layer]
            ],
        }
        for layer, same in like.items()
    ]
    arena = plan.arena.to_json()
    return to_json(
        {"format": FORMAT, **facts, "phase": plan.name, "arena": arena, "blocks": blocks}
    )


def calls_by_layer(plan: PhasePlan) -> _Layers:
    layers: _Layers = defaultdict(list)
    for index, call in enumerate(plan.calls):
        layers[call.layer].append((index, call))
    return layers


def nodes_by_id(program: Program | None) -> _Origins:
    """The nodes by id; of several with one id the first, whose meaning the id is."""
    nodes: _Origins = {}
    for node in program.graph.nodes if program is not None else ():
        nodes.setdefault(node_id(node), node)
    return nodes


def provenance(call: Call, nodes: _Origins) -> dict[str, Any]:
    node = nodes.get(call.node)
    meta = node.meta if node is not None else {}
    return {
        "origins": list(meta.get("origins", (call.node,))),
        "passes": list(meta.get("passes", ())),
        "source": meta.get("source"),
    }


def call_line(call: Call, plan: PhasePlan, nodes: _Origins) -> str:
    parts = [
        f"{name}{'*' if name in call.writes else ''}={argument_text(value, plan, call.layer)}"
        for name, value in call.arguments.items()
    ]
    text = f"{call.function}({', '.join(parts)})  {relative(call.node, call.layer)}"
    origins = [relative(item, call.layer) for item in provenance(call, nodes)["origins"]]
    if origins != [relative(call.node, call.layer)]:
        text += f"  from {', '.join(origins)}"
    return text + ("  host" if call.host else "")


def argument_text(value: Argument, plan: PhasePlan, layer: int | None) -> str:
    if isinstance(value, (BufferArgument, InputArgument)):
        if isinstance(value, BufferArgument):
            name = relative(plan.buffers[value.buffer].name, layer)
        else:
            name = value.input
        shape = "" if value.shape is None else f"[{', '.join(map(str, value.shape))}]"
        return f"{name}{shape}"
    if isinstance(value, WeightArgument):
        rows = "" if value.rows is None else f"[{value.rows[0]}:{value.rows[1]}]"
        return f"{relative(value.weight, layer)}{rows}"
    if isinstance(value, CacheArgument):
        return relative(f"{value.cache}_cache.{value.layer}", layer)
    if isinstance(value, ViewArgument):
        view = value.operation.split(".")[1] + "".join(f" {item}" for item in value.parameters)
        return f"({argument_text(value.source, plan, layer)} {view})"
    if isinstance(value, ListArgument):
        return f"[{', '.join(argument_text(item, plan, layer) for item in value.items)}]"
    return str(value.extent) if isinstance(value, ExtentArgument) else repr(value.value)
