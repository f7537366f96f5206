"""Why a pass did not match: what it found instead, the nearest miss first."""

from __future__ import annotations

from dataclasses import dataclass

from glmc.errors import UsageError
from glmc.observe.history.ids import Place, layers_of, nodes_of, whole_id
from glmc.observe.history.record import History, MissHistory, StepHistory
from glmc.observe.history.times import SPECIALISE
from glmc.passes.specialise import PHASE_NAMES
from glmc_runtime.command.nearest import did_you_mean


@dataclass(frozen=True)
class WhyNot:
    """``matches`` are whole ids; ``misses`` come nearest first.

    ``anchors`` are the ops at which the pass begins, ``seen`` how many nodes of these ops there
    were before it, ``taken`` which steps before it left fewer of them, and by how many; all are
    empty or None for a pass that looks at all nodes.
    """

    pass_name: str
    layer: int | None
    found: int
    expected: int | None
    matches: tuple[str, ...]
    misses: tuple[MissHistory, ...]
    anchors: tuple[str, ...]
    seen: int | None
    taken: tuple[tuple[str, int], ...] = ()


def why_not(history: History, name: str, layer: int | None = None) -> WhyNot:
    """Raises UsageError for a pass that did not run and a layer that does not exist."""
    passes = [
        step.name for step in history.steps[1:] if step.name not in PHASE_NAMES
    ]  # these match nothing
    if name == SPECIALISE:
        raise UsageError(
            f"'{name}' matches nothing: it makes the program of each phase",
            expected=", ".join(passes),
            found=name,
            remedy="ask of one of these passes; '--node' says what it did to a node",
        )
    if name not in passes:
        raise UsageError(
            f"no pass '{name}' ran",
            expected=", ".join(passes),
            found=name,
            remedy=did_you_mean(name, passes) or "name one of these",
        )
    count = layers_of(history)
    if layer is not None and not 0 <= layer < count:
        raise UsageError(
            f"there is no layer {layer}",
            expected=f"0 to {count - 1}",
            remedy="name one of these layers",
        )
    number = next(at for at, step in enumerate(history.steps) if step.name == name)
    step = history.steps[number]
    here = [match for match in step.matches if layer is None or match.layer == layer]
    misses = [miss for miss in step.near_misses if layer is None or miss.layer == layer]
    misses.sort(key=lambda miss: (-miss.held, miss.layer or 0))
    anchors = [_seen(each, step.anchors, layer, count) for each in history.steps[:number]]
    return WhyNot(
        name,
        layer,
        len(step.matches),
        step.expected,
        tuple(whole_id(history, Place(match.layer, match.id)) for match in here),
        tuple(misses),
        step.anchors,
        anchors[-1] if step.anchors else None,
        tuple(
            (taker.name, before - after)
            for taker, before, after in zip(history.steps[1:], anchors, anchors[1:], strict=False)
            if after < before
        ),
    )


def _seen(before: StepHistory, anchors: tuple[str, ...], layer: int | None, count: int) -> int:
    layers: tuple[int | None, ...] = (layer,) if layer is not None else (None, *range(count))
    return sum(node.op in anchors for number in layers for node in nodes_of(before, number))
