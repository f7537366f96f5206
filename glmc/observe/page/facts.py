"""Parts of the page without a script: the list of passes, the match counts and the guards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glmc.observe.history.record import History, StepHistory
from glmc.passes.specialise import PHASE_NAMES
from glmc_runtime.format.manifest import Guards, Limits, PhaseEntry

ABSENT = "not recorded"
NOT_VERIFIED = "not verified"


@dataclass(frozen=True)
class StepRow:
    """One step in words. ``share_nodes`` is of the largest graph, in percent.

    ``verdict`` is the beginning of ``proof``, which is all that a verifier said.
    """

    number: int
    stage: str
    name: str
    numerics: str
    time: str
    nodes: str
    change: str
    share_nodes: float
    matches: str
    expected: str
    kept: bool
    near_misses: int
    verdict: str
    proof: str


@dataclass(frozen=True)
class Figure:
    """A number at the head of the page; ``view`` is where it is shown at length."""

    name: str
    text: str
    more: str = ""
    view: str = ""


@dataclass(frozen=True)
class Guard:
    """One thing that must hold where the artifact is loaded."""

    name: str
    text: str


def step_rows(history: History) -> list[StepRow]:
    """The rows of the pipeline, one a step."""
    most = max((step.nodes_after for step in history.steps), default=0) or 1
    return [_row(step, most) for step in history.steps]


def _row(step: StepHistory, most: int) -> StepRow:
    matches = len(step.matches)
    rewrites = step.numerics is not None
    before = step.nodes_before
    change = "" if before is None else f"{step.nodes_after - before:+d}"
    return StepRow(
        number=step.number,
        stage=step.stage,
        name=step.name,
        numerics=step.numerics or "",
        time=duration(step.seconds),
        nodes=str(step.nodes_after),
        change=change.replace("-", "\N{MINUS SIGN}") if change != "+0" else "",
        share_nodes=round(100 * step.nodes_after / most, 1),
        matches=str(matches) if rewrites else "",
        expected="" if step.expected is None else str(step.expected),
        kept=step.expected is None or step.expected == matches,
        near_misses=len(step.near_misses),
        verdict=_short(step.verdict or (NOT_VERIFIED if rewrites else "")),
        proof=step.verdict or "",
    )


def figures(history: History) -> list[Figure]:
    """The compile in a few numbers."""
    made: list[Figure] = []
    if history.steps:
        first, last = history.steps[0], history.steps[-1]
        made.append(Figure("nodes", f"{first.nodes_after} to {last.nodes_after}"))
    counted = [step for step in history.steps if step.expected is not None]
    wrong = [step.name for step in counted if step.expected != len(step.matches)]
    wrong += lost(history)
    if wrong:
        made.append(Figure("match counts", f"{len(wrong)} differ", ", ".join(wrong), "checks"))
    elif counted:
        made.append(Figure("match counts", "as expected", f"{len(counted)} passes", "checks"))
    else:
        made.append(Figure("match counts", "none expected", view="checks"))
    misses = sum(len(step.near_misses) for step in history.steps)
    made.append(Figure("near misses", str(misses), view="checks"))
    for plan in history.plans:
        calls = sum(len(block.calls) * (1 + len(block.like)) for block in plan.blocks)
        more = f"calls, arena {plan.arena_bytes / 2**20:.1f} MiB"
        made.append(Figure(plan.phase, str(calls), more, f"kernels={plan.phase}"))
    if not history.plans:
        made.append(Figure("kernel calls", "not lowered"))
    return made


def _short(verdict: str) -> str:
    """``bitwise: 3 rewrites equal on 9 inputs; in float32 ...`` up to the semicolon; the class
    stands in a column of its own."""
    text = verdict.partition(";")[0]
    kind, colon, rest = text.partition(": ")
    return rest if colon and kind in ("bitwise", "reordered", "approximate") else text


def duration(seconds: float | None) -> str:
    """``12 ms`` or ``3.1 s``; says so where no time was taken."""
    if seconds is None:
        return ABSENT
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def lost(history: History) -> list[str]:
    """Passes of which matches are expected and which this pipeline does not run."""
    ran = {step.name for step in history.steps}
    phases = any(step.phase in PHASE_NAMES for step in history.steps)
    return [
        name
        for name, wanted in history.expected_matches.items()
        if wanted and name not in ran and not (name == "specialise" and phases)
    ]


def guard_rows(
    guards: Guards | None, limits: Limits | None, phases: Sequence[PhaseEntry]
) -> list[Guard]:
    """The guards in words, empty where the compile has none yet."""
    rows: list[Guard] = []
    if guards is not None:
        rows.append(Guard("target", guards.target))
        rows.append(Guard("glmc-runtime", f"{guards.minimum_runtime} or newer"))
        rows.append(Guard("torch", f"{guards.minimum_torch} or newer"))
    if limits is not None:
        rows.append(Guard("context", f"at most {limits.max_context} tokens"))
    for entry in phases:
        rows.append(Guard(f"{entry.key} buckets", ", ".join(map(str, entry.buckets))))
    return rows
