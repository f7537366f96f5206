"""Finding nodes of a history by id, whole or relative to a layer."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from glmc.errors import UsageError
from glmc.observe.history.record import CallHistory, History, NodeHistory, PlanHistory, StepHistory


@dataclass(frozen=True)
class Place:
    """A node's id as a block of ``layer`` writes it."""

    layer: int | None
    id: str


def place_of(history: History, whole: str) -> Place:
    """``model.layers.17.mlp.gate#gather`` is ``mlp.gate#gather`` of layer 17."""
    match = re.match(rf"{re.escape(history.prefix)}\.(\d+)(?:\.|(?=[#\[])|$)", whole)
    if match is None:
        return Place(None, whole)
    return Place(int(match.group(1)), whole[match.end() :] or "layer")


def whole_id(history: History, place: Place) -> str:
    """The other way round; ``previous:`` names the layer before."""
    layer, own = place.layer, place.id
    if layer is None or ("." in own and own.startswith(history.prefix)):
        return own
    if own.startswith("previous:"):
        layer, own = layer - 1, own.removeprefix("previous:")
    if own == "layer" or own[:1] in "#[":
        return f"{history.prefix}.{layer}{'' if own == 'layer' else own}"
    return f"{history.prefix}.{layer}.{own}"


def nodes_of(step: StepHistory, layer: int | None) -> tuple[NodeHistory, ...]:
    """The nodes of a layer, be it folded, or of the outside."""
    for block in step.blocks:
        if layer == block.layer or (layer is not None and layer in block.like):
            return block.nodes
    return ()


def calls_of(plan: PlanHistory, layer: int | None) -> Iterator[tuple[int, CallHistory]]:
    """The calls of a layer with their places in the plan."""
    for block in plan.blocks:
        layers = (block.layer, *block.like)
        if layer in layers:
            yield from zip(block.indices[layers.index(layer)], block.calls, strict=True)


def layers_of(history: History) -> int:
    """How many layers the captured program has."""
    numbers = [
        layer
        for block in history.steps[0].blocks
        for layer in (block.layer, *block.like)
        if layer is not None
    ]
    return max(numbers, default=-1) + 1


def require_known(history: History, name: str) -> Place:
    """The place of an id that some step has, or of the one glmc op that is left of a module.

    ``model.`` in front may be left out. Raises UsageError with what is nearest.
    """
    stem, _, collection = history.prefix.rpartition(".")
    whole = f"{stem}.{name}" if stem and name.startswith(f"{collection}.") else name
    place = place_of(history, whole)
    known: dict[str, None] = {}
    for step in history.steps:
        for node in nodes_of(step, place.layer):
            if node.id == place.id:
                return place
            known[whole_id(history, Place(place.layer, node.id))] = None
    left = list(dict.fromkeys(_left_of_module(history, place)))
    if len(left) == 1:
        return Place(place.layer, left[0])
    count = layers_of(history)
    if place.layer is not None and place.layer >= count:
        raise UsageError(
            f"there is no layer {place.layer}", expected=f"0 to {count - 1}", found=whole
        )
    if place.layer is None:
        for step in history.steps:
            for block in step.blocks:
                layer = block.layer
                known.update(
                    (whole_id(history, Place(layer, node.id)), None) for node in block.nodes
                )
    near = [whole_id(history, Place(place.layer, own)) for own in left[:4]]
    near = near or difflib.get_close_matches(whole, known, n=4, cutoff=0.5)
    raise UsageError(
        "no step has a node of that id",
        expected="an id as dumps, reports and the page print it",
        found=whole,
        remedy=f"try {', '.join(near)}" if near else "glmc inspect ARTIFACT --layer 0 lists ids",
    )


def _left_of_module(history: History, place: Place) -> Iterator[str]:
    """Ids of the ``glmc`` ops that the last step of a phase has of a module itself."""
    last = {step.phase: step for step in history.steps}
    for step in last.values():
        for node in nodes_of(step, place.layer):
            if node.id.partition("#")[0] == place.id and node.op.startswith("glmc."):
                yield node.id
