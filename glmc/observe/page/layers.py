"""Kinds of layers: those that read the same after every step and in every plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glmc.observe.history.ids import calls_of, layers_of, nodes_of
from glmc.observe.history.record import BlockHistory, CallBlock, History, StepHistory


@dataclass(frozen=True)
class LayerKind:
    """``layers`` of one kind. Nodes are counted without weights; ``calls`` are those of the main
    phase, None where nothing was lowered."""

    layers: tuple[int, ...]
    nodes_before: int
    nodes_after: int
    calls: int | None

    @property
    def text(self) -> str:
        """``140 to 21 nodes, 26 calls``."""
        calls = "" if self.calls is None else f", {self.calls} calls"
        return f"{self.nodes_before} to {self.nodes_after} nodes{calls}"


def layer_kinds(history: History, main: str | None) -> tuple[LayerKind, ...]:
    """The kinds in the order of their first layers; ``main`` is the phase whose calls count."""
    kinds: dict[tuple[int | None, ...], list[int]] = {}
    places = [_places(step.blocks) for step in history.steps]
    places += [_places(plan.blocks) for plan in history.plans]
    for layer in range(layers_of(history)):
        kinds.setdefault(tuple(each.get(layer) for each in places), []).append(layer)
    plan = next((plan for plan in history.plans if plan.phase == main), None)
    return tuple(
        LayerKind(
            tuple(layers),
            _operations(history.steps[0], layers[0]),
            _operations(history.steps[-1], layers[0]),
            None if plan is None else sum(1 for _ in calls_of(plan, layers[0])),
        )
        for layers in kinds.values()
    )


def _places(blocks: Sequence[BlockHistory] | Sequence[CallBlock]) -> dict[int, int]:
    """Each layer with the one that its block was taken from."""
    return {
        layer: block.layer
        for block in blocks
        if block.layer is not None
        for layer in (block.layer, *block.like)
    }


def _operations(step: StepHistory, layer: int) -> int:
    return sum(node.op != "weight" for node in nodes_of(step, layer))
