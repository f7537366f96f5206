"""Two compiles against each other: what they were made from, their steps and their plans."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from glmc.observe.diff.made_from import input_changes, remarks
from glmc.observe.diff.plans import plan_diffs
from glmc.observe.diff.record import Change, Comparison, MatchChange, StepDiff
from glmc.observe.diff.rows import (
    Blocks,
    Changes,
    Layer,
    Row,
    common_layers,
    folded,
    row_changes,
)
from glmc.observe.diff.sides import Side
from glmc.observe.history.record import NodeHistory, StepHistory
from glmc_runtime.format.phases import PHASES

STEP = "step"


def compare(a: Side, b: Side) -> Comparison:
    """Everything that differs; see glmc/observe/diff/record.py.

    Times are not compared, nor are lines of the model's source, which move with the version of
    transformers. A verdict is compared where both sides have one.
    """
    return Comparison(
        a.facts,
        b.facts,
        (*input_changes(a, b), *_order(a, b)),
        tuple(_step_diffs(a, b)),
        plan_diffs(a.history, b.history),
        tuple(remarks(a, b)),
    )


def _order(a: Side, b: Side) -> Iterator[Change]:
    """The order of the passes that both ran."""
    names = [[step.name for step in side.history.steps] for side in (a, b)]
    first, second = (
        [name for name in own if name in names[0] and name in names[1]] for own in names
    )
    if first != second:
        yield Change(STEP, "order", ", ".join(first), ", ".join(second))


@dataclass
class _State:
    """The program of each side as far as the steps have come, and what differs in it."""

    a: Blocks = field(default_factory=dict)
    b: Blocks = field(default_factory=dict)
    changes: Changes = field(default_factory=dict)


def _step_diffs(a: Side, b: Side) -> Iterator[StepDiff]:
    """Every step of either side. One that a single side ran is held against what the other side's
    step before it left, so that what a pass did is found at that pass."""
    steps = [{step.name: step for step in side.history.steps} for side in (a, b)]
    state, layers = _State(), common_layers(a.history, b.history)
    before_phases = state.changes
    for name in _merged(list(steps[0]), list(steps[1])):
        left, right = steps[0].get(name), steps[1].get(name)
        state.a = state.a if left is None else _blocks(left)
        state.b = state.b if right is None else _blocks(right)
        changes = row_changes(state.a, state.b, layers)
        # Each phase is made of the program before the phases, not of the phase before it.
        known = before_phases if name in PHASES else state.changes
        new = {
            layer: tuple(each for each in some if each not in set(known.get(layer, ())))
            for layer, some in changes.items()
        }
        state.changes = changes
        if name not in PHASES:
            before_phases = changes
        yield StepDiff(
            name,
            None if left is None else left.label,
            None if right is None else right.label,
            tuple(_facts(left, right)),
            tuple(_matches(left, right)),
            folded(new),
            sum(map(len, changes.values())) - sum(map(len, new.values())),
        )


def _merged(left: list[str], right: list[str]) -> list[str]:
    """The names of the left side, each of the right side's own after the one that it follows."""
    merged = list(left)
    place = 0
    for name in right:
        if name in left:
            place = merged.index(name) + 1
        else:
            merged.insert(place, name)
            place += 1
    return merged


def _blocks(step: StepHistory) -> Blocks:
    blocks: dict[Layer, tuple[Row, ...]] = {}
    for block in step.blocks:
        rows = tuple(map(_row, block.nodes))
        blocks.update(dict.fromkeys((block.layer, *block.like), rows))
    return blocks


def _row(node: NodeHistory) -> Row:
    call = f"{node.op}({node.arguments})" if node.arguments else node.op
    return Row(node.id, "", f"{call}  {node.value}")


def _facts(left: StepHistory | None, right: StepHistory | None) -> Iterator[Change]:
    if left is None or right is None:
        return
    for name, a, b in (
        ("matches", _count(left), _count(right)),
        ("expected", left.expected, right.expected),
        ("near misses", len(left.near_misses), len(right.near_misses)),
        ("nodes", left.nodes_after, right.nodes_after),
        ("numerics", left.numerics, right.numerics),
        ("verdict", left.verdict, right.verdict),
    ):
        if a != b and (name != "verdict" or None not in (a, b)):
            yield Change(left.name, name, _text(a), _text(b))


def _count(step: StepHistory) -> int | None:
    return None if step.numerics is None else len(step.matches)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _matches(left: StepHistory | None, right: StepHistory | None) -> Iterator[MatchChange]:
    counts: list[Counter[tuple[str, Layer]]] = [
        Counter((match.id, match.layer) for match in (step.matches if step else ()))
        for step in (left, right)
    ]
    for side, own in (("a", counts[0] - counts[1]), ("b", counts[1] - counts[0])):
        for name, layers in _by_id(own).items():
            yield MatchChange(name, tuple(layers), side)


def _by_id(counts: Mapping[tuple[str, Layer], int]) -> dict[str, list[Layer]]:
    layers: dict[str, list[Layer]] = defaultdict(list)
    for name, layer in counts:
        layers[name].append(layer)
    return layers
