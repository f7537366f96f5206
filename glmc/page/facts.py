"""What the page says without a script: the list of passes, the match counts and the guards."""

from __future__ import annotations

from dataclasses import dataclass

from glmc.history.record import History, StepHistory
from glmc_runtime.manifest import Guards, Limits

ABSENT = "not recorded"
NOT_VERIFIED = "not verified"


@dataclass(frozen=True)
class StepRow:
    """One step in words. ``share_nodes`` and ``share_time`` are of the largest, in percent."""

    number: int
    stage: str
    name: str
    numerics: str
    time: str
    share_time: float
    nodes: str
    change: str
    share_nodes: float
    matches: str
    expected: str
    kept: bool
    near_misses: int
    verdict: str


@dataclass(frozen=True)
class Guard:
    """One thing that must hold where the artifact is loaded."""

    name: str
    text: str


def step_rows(history: History) -> list[StepRow]:
    """The rows of the pipeline, one a step."""
    most = max((step.nodes_after for step in history.steps), default=0) or 1
    longest = max((step.seconds or 0.0 for step in history.steps), default=0.0) or 1.0
    return [_row(step, most, longest) for step in history.steps]


def _row(step: StepHistory, most: int, longest: float) -> StepRow:
    found = len(step.matches)
    rewrites = step.numerics is not None
    before = step.nodes_before
    change = "" if before is None else f"{step.nodes_after - before:+d}"
    return StepRow(
        number=step.number,
        stage=step.stage,
        name=step.name,
        numerics=step.numerics or "",
        time=duration(step.seconds),
        share_time=round(100 * (step.seconds or 0.0) / longest, 1),
        nodes=str(step.nodes_after),
        change=change.replace("-", "\N{MINUS SIGN}") if change != "+0" else "",
        share_nodes=round(100 * step.nodes_after / most, 1),
        matches=str(found) if rewrites else "",
        expected="" if step.expected is None else str(step.expected),
        kept=step.expected is None or step.expected == found,
        near_misses=len(step.near_misses),
        verdict=(step.verdict or NOT_VERIFIED) if rewrites else "",
    )


def duration(seconds: float | None) -> str:
    """``12 ms`` or ``3.1 s``; says so where no time was taken."""
    if seconds is None:
        return ABSENT
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def lost(history: History) -> list[str]:
    """Passes of which matches are expected and which this pipeline does not run."""
    ran = {step.name for step in history.steps}
    phases = any(step.phase in ("prefill", "decode") for step in history.steps)
    return [
        name
        for name, wanted in history.expected_matches.items()
        if wanted and name not in ran and not (name == "specialise" and phases)
    ]


def guard_rows(guards: Guards | None, limits: Limits | None) -> list[Guard]:
    """The guards in words, empty where the compile has none yet."""
    rows: list[Guard] = []
    if guards is not None:
        rows.append(Guard("target", guards.target))
        rows.append(Guard("glmc-runtime", f"{guards.minimum_runtime} or newer"))
        rows.append(Guard("torch", f"{guards.minimum_torch} or newer"))
    if limits is not None:
        rows.append(Guard("context", f"at most {limits.max_context} tokens"))
        rows.append(Guard("decode buckets", ", ".join(map(str, limits.decode_buckets))))
        rows.append(Guard("prefill buckets", ", ".join(map(str, limits.prefill_buckets))))
    return rows
