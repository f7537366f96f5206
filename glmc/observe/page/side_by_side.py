"""Several compiles side by side: facts, steps and kernels in columns, then what differs from A.

The first compile is A; each other one is compared with it. Made without a script: what is long is
folded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from glmc.observe.diff.record import Comparison
from glmc.observe.diff.sides import Side
from glmc.observe.diff.words import layer_text, summary_lines
from glmc.observe.history.ids import layers_of
from glmc.observe.history.record import History, PlanHistory, StepHistory
from glmc.observe.page.render import assembled, environment
from glmc.observe.page.start import calls_in
from glmc.observe.page.verdict import verdict_of
from glmc_runtime.command.units import bytes_text

MOST = len(ascii_uppercase)
_STYLES = "colours frame start pass diff narrow print".split()
_ABSENT = "none"
_TITLES = 2  # lines of a summary that name the two sides


@dataclass(frozen=True)
class Row:
    """A fact of each compile; ``differs`` says of each whether it is another one than A's."""

    name: str
    cells: tuple[str, ...]

    @property
    def differs(self) -> tuple[bool, ...]:
        return tuple(cell != self.cells[0] for cell in self.cells)


@dataclass(frozen=True)
class Table:
    """``rows`` of one kind; those in which all are alike can be folded."""

    title: str
    rows: tuple[Row, ...]

    @property
    def differing(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if any(row.differs))


@dataclass(frozen=True)
class Against:
    """One compile against A: the summary in words, and which layers of either differ."""

    letter: str
    comparison: Comparison
    summary: tuple[str, ...]
    layers: tuple[tuple[int, bool], ...]
    where: str


def side_by_side_page(sides: Sequence[Side], comparisons: Sequence[Comparison]) -> str:
    """The HTML of two or more compiles; ``comparisons`` are of the first with each other one. The
    same sides give the same bytes."""
    letters = ascii_uppercase[: len(sides)]
    histories = [side.history for side in sides]
    first, *others = map(layers_of, histories)
    pairs = [
        _against(letter, comparison, first, layers)
        for letter, comparison, layers in zip(letters[1:], comparisons, others, strict=True)
    ]
    html: str = (
        environment()
        .get_template("diff.html")
        .render(
            sides=list(zip(letters, (side.facts for side in sides), strict=True)),
            pairs=pairs,
            tables=[_facts(histories), _steps(histories), *_kernels(histories)],
            layer_text=layer_text,
            absent=_ABSENT,
            style=assembled(_STYLES, "css"),
        )
    )
    return html


def _against(letter: str, comparison: Comparison, of_a: int, of_other: int) -> Against:
    """``of_a`` and ``of_other`` are the numbers of layers of the two."""
    alone = tuple(range(min(of_a, of_other), max(of_a, of_other)))
    layers = frozenset(_layers(comparison)).difference(alone)
    numbers = tuple(
        (layer, layer in layers or layer in alone) for layer in range(max(of_a, of_other))
    )
    where = _where(layers)
    if alone:
        verb = "is" if len(alone) == 1 else "are"
        where += f" Of {'A' if of_a > of_other else letter} alone {verb} {layer_text(alone)}."
    lines = (line.replace("B  ", f"{letter}  ", 1) for line in summary_lines(comparison))
    return Against(letter, comparison, tuple(lines)[_TITLES:], numbers, where)


def _where(layers: frozenset[int | None]) -> str:
    """Where nodes, calls and buffers differ in what both have, as a sentence."""
    numbers = tuple(sorted(layer for layer in layers if layer is not None))
    parts = ["outside the layers"] if None in layers else []
    parts += [f"in {layer_text(numbers)}"] if numbers else []
    if not parts:
        return "No node, call or buffer differs."
    return f"Nodes, calls or buffers differ {' and '.join(parts)}."


def _layers(comparison: Comparison) -> Iterator[int | None]:
    """Every layer in which a node, a call, a buffer or a match differs."""
    for step in comparison.steps:
        for match in step.matches:
            yield from match.layers
        for node in step.nodes:
            yield from node.layers
    for plan in comparison.plans:
        for row in (*plan.calls, *plan.buffers):
            yield from row.layers


def _row(name: str, histories: Sequence[History], read: Callable[[History], str]) -> Row:
    return Row(name, tuple(map(read, histories)))


def _facts(histories: Sequence[History]) -> Table:
    rows = [
        _row("model", histories, lambda history: history.model),
        _row("target", histories, lambda history: history.target or _ABSENT),
        _row("layers", histories, lambda history: str(layers_of(history))),
        _row("captured nodes", histories, lambda history: f"{history.steps[0].nodes_after:,}"),
        _row("nodes at the end", histories, lambda history: f"{history.steps[-1].nodes_after:,}"),
        _row("matches", histories, lambda history: f"{_matches(history):,}"),
        _row("match counts", histories, lambda history: verdict_of(history, None).counts),
        _row("proof", histories, lambda history: verdict_of(history, None).proof),
    ]
    for phase in _phases(histories):
        rows += [
            _plan_row(f"calls in {phase}", phase, histories, lambda plan: f"{calls_in(plan):,}"),
            _plan_row(
                f"segments in {phase}", phase, histories, lambda plan: str(len(plan.segments))
            ),
            _plan_row(
                f"arena in {phase}", phase, histories, lambda plan: bytes_text(plan.arena_bytes)
            ),
        ]
    return Table("Facts", tuple(rows))


def _matches(history: History) -> int:
    return sum(len(step.matches) for step in history.steps)


def _phases(histories: Sequence[History]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(plan.phase for history in histories for plan in history.plans))


def _plan_of(history: History, phase: str) -> PlanHistory | None:
    return next((plan for plan in history.plans if plan.phase == phase), None)


def _plan_row(
    name: str, phase: str, histories: Sequence[History], read: Callable[[PlanHistory], str]
) -> Row:
    plans = [_plan_of(history, phase) for history in histories]
    return Row(name, tuple(_ABSENT if plan is None else read(plan) for plan in plans))


def _steps(histories: Sequence[History]) -> Table:
    """Steps in the order of A, each of another compile's own after the one that it follows."""
    names: list[str] = []
    for history in histories:
        place = 0
        for step in history.steps:
            if step.name not in names:
                names.insert(place, step.name)
            place = names.index(step.name) + 1
    return Table(
        "Steps",
        tuple(
            _row(name, histories, lambda history, name=name: _step_text(history, name))  # type: ignore[misc]
            for name in names
        ),
    )


def _step_text(history: History, name: str) -> str:
    step = next((step for step in history.steps if step.name == name), None)
    return "did not run" if step is None else _counts(step)


def _counts(step: StepHistory) -> str:
    nodes = f"{step.nodes_after:,} nodes"
    return nodes if step.numerics is None else f"{len(step.matches):,} matches, {nodes}"


def _kernels(histories: Sequence[History]) -> Iterator[Table]:
    for phase in _phases(histories):
        counts: list[Counter[str]] = []
        for history in histories:
            plan = _plan_of(history, phase)
            counts.append(Counter() if plan is None else _kernel_counts(plan))
        rows = (
            Row(name, tuple(f"{count[name]:,}" if count[name] else _ABSENT for count in counts))
            for name in sorted(set().union(*counts))
        )
        yield Table(f"Kernels of {phase}", tuple(rows))


def _kernel_counts(plan: PlanHistory) -> Counter[str]:
    counts: Counter[str] = Counter()
    for block in plan.blocks:
        for call in block.calls:
            counts[call.function] += 1 + len(block.like)
    return counts
