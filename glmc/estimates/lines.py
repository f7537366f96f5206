"""The lines of a step: a line for each kind of node in a layer, with the calls that compute it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from torch.fx import Node

from glmc.estimates.costs import Cost, Step, node_cost
from glmc.estimates.few_layers import FewPlans
from glmc.ir import match as m
from glmc.ir.program import Program
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.plan import Call, Segment


@dataclass(frozen=True)
class Line:
    """Nodes that are alike, in one layer of each of ``layers``, or once outside of them.

    ``kernels`` are the functions that the plan calls for one of them, in order; ``cost`` is one's.
    """

    op: str
    module: str
    layers: tuple[int, ...] | None
    kernels: tuple[str, ...]
    cost: Cost

    @property
    def count(self) -> int:
        return 1 if self.layers is None else len(self.layers)

    @property
    def launches(self) -> int:
        return self.count * len(self.kernels)


@dataclass(frozen=True)
class Launches:
    """What the host does for a step of the whole model: calls one by one, and device graphs."""

    eager: int
    graphs: int


def step_lines(plans: FewPlans, step: Step) -> tuple[Line, ...]:
    """All lines of a step, in the order of the step."""
    key = _key(plans, step)
    program, block_size = plans.programs[key], plans.manifest.cache.block_size
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in plans.plans[key].calls:
        calls[call.node].append(call)
    lines: dict[object, Line] = {}
    for node in program.graph.nodes:
        mine = calls.get(node.meta.get("id", ""), []) if node.op == "call_function" else []
        if not mine or m.is_op(node, "getitem"):
            continue
        line = _line(plans, program, step, block_size, node, mine)
        same = (line.op, line.module, line.kernels, line.cost)
        known = lines.get(same)
        if known is not None and known.layers is not None and line.layers is not None:
            line = Line(line.op, line.module, known.layers + line.layers, line.kernels, line.cost)
        lines[same] = line
    return tuple(lines.values())


def _line(
    plans: FewPlans,
    program: Program,
    step: Step,
    block_size: int,
    node: Node,
    calls: list[Call],
) -> Line:
    layer, module = calls[0].layer, calls[0].module
    if layer is not None:
        module = module.partition(f".{layer}.")[2] or module
    return Line(
        calls[0].origin,
        module,
        None if layer is None else tuple(plans.layers[layer]),
        tuple(call.function for call in calls),
        node_cost(node, program, step, block_size),
    )


def step_launches(plans: FewPlans, step: Step) -> Launches:
    """How the host launches a step: where a phase is captured, its segments, else its calls."""
    key = _key(plans, step)
    plan = plans.plans[key]
    counts = [1 if call.layer is None else len(plans.layers[call.layer]) for call in plan.calls]
    if not plan.phase.captured:
        return Launches(sum(counts), 0)
    eager = sum(sum(counts[each.first : each.last + 1]) for each in _eager(plan.segments))
    # Between two calls of the host lies one graph.
    return Launches(eager, eager + 1)


def _eager(segments: tuple[Segment, ...]) -> Iterator[Segment]:
    return (each for each in segments if not each.captured)


def _key(plans: FewPlans, step: Step) -> PhaseKey:
    return next(key for key in plans.plans if key.phase == step.phase)
