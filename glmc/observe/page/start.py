"""The start of the page: what was compiled, in a sentence; its verdict; layers and steps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from glmc.observe.history.ids import place_of
from glmc.observe.history.record import History, PlanHistory, StepHistory
from glmc.observe.page.artifact import ArtifactFacts
from glmc.observe.page.layers import LayerKind
from glmc.observe.page.measured import WRONG, Aligned
from glmc.observe.page.verdict import is_phase, rewrites
from glmc_runtime.command.output import counted
from glmc_runtime.command.units import bytes_text, count_text, seconds_text
from glmc_runtime.format.phases import PHASES

TINTS = 6
NOT_PROVED = "not proved"


@dataclass(frozen=True)
class StepRow:
    """One step in words; ``address`` is the view of it. ``share_nodes`` is of the largest graph.

    ``verdict`` is the beginning of ``proof``, which is all that a verifier said.
    """

    number: int
    stage: str
    name: str
    address: str
    numerics: str = ""
    time: str = ""
    nodes: str = ""
    change: str = ""
    share_nodes: float = 0.0
    matches: str = ""
    expected: str = ""
    as_expected: bool = True
    near_misses: int = 0
    verdict: str = ""
    proof: str = ""


@dataclass(frozen=True)
class LayerCell:
    """A layer of the row of layers; ``tint`` is one for all of its kind. ``wrong`` counts values
    that an alignment found wrong."""

    layer: int
    tint: int
    misses: int
    wrong: int

    @property
    def label(self) -> str:
        """``layer 3, 2 near misses, 1 wrong value``."""
        misses = f"{self.misses} near miss{'' if self.misses == 1 else 'es'}" if self.misses else ""
        wrong = counted(self.wrong, "wrong value") if self.wrong else ""
        return ", ".join(filter(None, (f"layer {self.layer}", misses, wrong)))


def main_phase(history: History) -> str | None:
    """The phase whose plan stands for the compile: the one that is captured, or the last."""
    names = [plan.phase for plan in history.plans]
    captured = (name for name in names if name in PHASES and PHASES[name].captured)
    return next(captured, names[-1] if names else None)


def described(history: History, facts: ArtifactFacts | None) -> str:
    """Model, dtype and sizes as one or two sentences."""
    if facts is None:
        return ""
    model = facts.model
    return (
        f"{model.architecture}, {model.layers} layers, {count_text(model.parameters)} parameters "
        f"in {facts.dtype}. Weights take {bytes_text(facts.weight_bytes)}, the cache "
        f"{bytes_text(facts.cache_token_bytes)} a token; contexts are at most "
        f"{facts.limits.max_context:,} tokens."
    )


def became(history: History) -> str:
    """Nodes at capture and at the end, and the kernel calls of each phase."""
    first, last = history.steps[0], history.steps[-1]
    text = f"{first.nodes_after:,} captured nodes became {last.nodes_after:,}"
    if not history.plans:
        return f"{text}; they were not lowered to kernel calls."
    calls = " and ".join(f"{calls_in(plan):,} calls in {plan.phase}" for plan in history.plans)
    return f"{text}: {calls}."


def example(history: History, kinds: tuple[LayerKind, ...]) -> str:
    """What one can search for: a layer of the commonest kind, and a pass of it."""
    layers = max((kind.layers for kind in kinds), key=len, default=())
    if not layers:
        return "a word"
    layer = layers[len(layers) // 5]
    names = [step.name for step in history.steps if step.expected]
    return f"{layer}, {layer} {names[0]}" if names else str(layer)


def calls_in(plan: PlanHistory) -> int:
    """The kernel calls of a plan."""
    return sum(len(block.calls) * (1 + len(block.like)) for block in plan.blocks)


def layer_cells(
    history: History, kinds: tuple[LayerKind, ...], aligned: Aligned | None = None
) -> list[LayerCell]:
    """The row of layers, in order."""
    misses: dict[int | None, int] = {}
    for step in history.steps:
        for miss in step.near_misses:
            misses[miss.layer] = misses.get(miss.layer, 0) + 1
    wrong = Counter(
        place_of(history, node).layer
        for node, error in (aligned.nodes if aligned is not None else {}).items()
        if error.verdict in WRONG
    )
    cells = [
        LayerCell(layer, number % TINTS, misses.get(layer, 0), wrong[layer])
        for number, kind in enumerate(kinds)
        for layer in kind.layers
    ]
    return sorted(cells, key=lambda cell: cell.layer)


def step_rows(history: History) -> list[StepRow]:
    """The rows of the pipeline: the steps, and the lowering of each phase."""
    most = max((step.nodes_after for step in history.steps), default=0) or 1
    rows = [_row(step, most) for step in history.steps]
    return rows + [_lowering(len(rows) + at, plan) for at, plan in enumerate(history.plans)]


def _row(step: StepHistory, most: int) -> StepRow:
    matches = len(step.matches)
    before = step.nodes_before
    change = "" if before is None else f"{step.nodes_after - before:+,d}"
    return StepRow(
        number=step.number,
        stage="" if step.stage == step.name else step.stage,
        name=step.name,
        address=f"pass={step.name}",
        numerics=step.numerics or "",
        time=_time(step.seconds) + (" for all" if step.seconds and is_phase(step) else ""),
        nodes=f"{step.nodes_after:,}",
        change=change.replace("-", "\N{MINUS SIGN}") if change != "+0" else "",
        share_nodes=round(100 * step.nodes_after / most, 1),
        matches=f"{matches:,}" if step.numerics is not None else "",
        expected="" if step.expected is None else str(step.expected),
        as_expected=step.expected is None or step.expected == matches,
        near_misses=len(step.near_misses),
        verdict=_short(step.verdict or (NOT_PROVED if rewrites(step) else "")),
        proof=step.verdict or "",
    )


def _lowering(number: int, plan: PlanHistory) -> StepRow:
    return StepRow(
        number=number,
        stage="lower",
        name=plan.phase,
        address=f"kernels={plan.phase}",
        nodes=f"{calls_in(plan):,} calls",
        change=f"arena {bytes_text(plan.arena_bytes)}",
        time=_time(plan.seconds),
        verdict=_short(plan.verdict or NOT_PROVED),
        proof=plan.verdict or "",
    )


def _time(seconds: float | None) -> str:
    return "" if seconds is None else seconds_text(seconds)


def _short(verdict: str) -> str:
    """``bitwise: 3 rewrites equal on 9 inputs; in float32 ...`` up to the semicolon; the class
    stands in a column of its own."""
    text = verdict.partition(";")[0]
    for kind in ("bitwise", "reordered", "approximate"):
        text = text.replace(f"{kind}: ", "", 1)
    return text
