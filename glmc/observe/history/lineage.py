"""Lineage of one node: where it comes from, who changed it, which kernel calls it ends in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from glmc.observe.history.ids import Place, calls_of, nodes_of, require_known, whole_id
from glmc.observe.history.record import CallHistory, History, NodeHistory, StepHistory


@dataclass(frozen=True)
class Event:
    """What a step did: ``captured``, ``made``, ``changed``, ``became`` others, or ``dropped`` it.

    ``nodes`` are whole ids with op, arguments and value of what is there after the step.
    """

    step: str
    what: str
    nodes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class KernelCall:
    """``index`` is the place in the plan of ``phase``; ``captured`` in a device graph's segment."""

    phase: str
    index: int
    function: str
    writes: tuple[str, ...]
    captured: bool
    node: str


@dataclass(frozen=True)
class Lineage:
    """The life of the node ``id``. ``origins`` are its ids at capture with their source lines."""

    id: str
    module: str
    source: str
    origins: tuple[tuple[str, str], ...]
    events: tuple[Event, ...]
    calls: tuple[KernelCall, ...]


def lineage(history: History, whole: str) -> Lineage:
    """Follow an id through every step to the kernel calls; raises UsageError for an unknown one."""
    place = require_known(history, whole)
    first = next(
        node
        for step in history.steps
        for node in nodes_of(step, place.layer)
        if node.id == place.id
    )
    return Lineage(
        whole_id(history, place),
        whole_id(history, Place(place.layer, first.module)) if first.module else "",
        first.source,
        tuple(_origins(history, place)),
        tuple(_events(history, place)),
        tuple(_calls(history, place)),
    )


def _origins(history: History, place: Place) -> Iterator[tuple[str, str]]:
    """Of the last step that has the id: a fused node goes by the id of a captured one. In the order
    of the model's lines, what has none last."""
    last = next(
        node
        for step in reversed(history.steps)
        for node in nodes_of(step, place.layer)
        if node.id == place.id
    )
    others = [Place(place.layer, own) for own in last.origins if own != place.id]
    named = [(whole_id(history, each), _source_at_capture(history, each)) for each in others]
    yield from sorted(named, key=lambda origin: _line(origin[1]))


def _line(source: str) -> tuple[bool, str, int]:
    """File and line of ``modeling_glm4_moe.py:283 forward``, to sort by."""
    file, _, rest = source.partition(":")
    return not source, file, int(rest.partition(" ")[0] or 0)


def _source_at_capture(history: History, place: Place) -> str:
    from glmc.observe.history.ids import place_of

    place = place_of(history, whole_id(history, place))
    for node in nodes_of(history.steps[0], place.layer):
        if node.id == place.id:
            return node.source
    return ""


def _events(history: History, place: Place) -> Iterator[Event]:
    """One for each step that did something to the node or to what stands for it."""
    before: tuple[tuple[str, str], ...] = ()
    for step in history.steps:
        itself, heirs = _standing(history, step, place)
        now = itself or heirs
        described = tuple((whole, text) for whole, text in now)
        if described == before:
            continue
        if not before:
            what = "captured" if step is history.steps[0] else "made"
        elif not now:
            what = "dropped"
        elif itself and any(whole == before[0][0] for whole, _ in itself):
            what = "changed"
        else:
            what = "became"
        yield Event(step.name, what, described)
        if what == "dropped":
            return
        before = described


def _standing(
    history: History, step: StepHistory, place: Place
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The node itself in a step, and the nodes that have it among their origins."""
    itself: list[tuple[str, str]] = []
    heirs: list[tuple[str, str]] = []
    for layer, name in _names(history, place):
        for node in nodes_of(step, layer):
            if node.op == "getitem" and (layer, node.id) != (place.layer, place.id):
                continue  # one of the outputs of a node that is named itself
            if (layer, node.id) == (place.layer, place.id):
                itself.append((whole_id(history, place), _text(node)))
            elif name in node.origins:
                heirs.append((whole_id(history, Place(layer, node.id)), _text(node)))
    return itself, heirs


def _names(history: History, place: Place) -> Iterator[tuple[int | None, str]]:
    """What a node is called in its own layer, in the next one and outside the layers."""
    yield place.layer, place.id
    if place.layer is not None:
        yield place.layer + 1, f"previous:{place.id}"
        yield None, whole_id(history, place)


def _text(node: NodeHistory) -> str:
    call = f"{node.op}({node.arguments})" if node.arguments else node.op
    return f"{call} -> {node.value}"


def _calls(history: History, place: Place) -> Iterator[KernelCall]:
    for plan in history.plans:
        for layer, name in _names(history, place):
            for index, call in calls_of(plan, layer):
                if name in (call.node, *call.origins):
                    yield _call(history, plan.phase, index, call, layer)


def _call(
    history: History, phase: str, index: int, call: CallHistory, layer: int | None
) -> KernelCall:
    plan = next(each for each in history.plans if each.phase == phase)
    captured = any(first <= index <= last and in_graph for first, last, in_graph in plan.segments)
    whole = whole_id(history, Place(layer, call.node))
    return KernelCall(phase, index, call.function, call.writes, captured, whole)
