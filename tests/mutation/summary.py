"""Verdicts counted: by spelling and kind of mutation, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from tests.mutation.judge import FAULTS, Outcome, Verdict

_COLUMNS = (
    ("tried", tuple(each for each in Outcome if each is not Outcome.INVALID)),
    ("other values by itself", ()),
    ("fused", (Outcome.FUSED,)),
    ("refused", (Outcome.REFUSED,)),
    ("no anchor", (Outcome.GONE,)),
    ("no reason", (Outcome.UNEXPLAINED,)),
    ("silent", (Outcome.SILENT,)),
    ("fails", (Outcome.FAILED,)),
    ("invalid", (Outcome.INVALID,)),
)


def summary(verdicts: Sequence[Verdict]) -> str:
    """Two tables, by pass and by kind, and the faults by name."""
    lines = [
        *_table("pass", verdicts, lambda each: each.family),
        "",
        *_table("kind", verdicts, lambda each: each.kind),
        "",
        *faults(verdicts),
    ]
    return "\n".join(lines)


def in_full(verdicts: Sequence[Verdict]) -> str:
    """Spellings by kinds: how many were tried, and how many of those are faults."""
    kinds = sorted({each.kind for each in verdicts})
    valid = [each for each in verdicts if each.outcome is not Outcome.INVALID]
    tried = Counter((each.subject, each.kind) for each in valid)
    wrong = Counter((each.subject, each.kind) for each in valid if each.outcome in FAULTS)
    lines = [f"| spelling | {' | '.join(kinds)} |", f"|---|{'---|' * len(kinds)}"]
    for name in dict.fromkeys(each.subject for each in verdicts):
        cells = [
            f"{tried[name, kind]}" + (f" ({wrong[name, kind]} faults)" if wrong[name, kind] else "")
            for kind in kinds
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def faults(verdicts: Iterable[Verdict]) -> list[str]:
    return [
        f"{each.outcome.value}: {each.name} ({each.text})"
        for each in verdicts
        if each.outcome in FAULTS
    ]


def _table(head: str, verdicts: Sequence[Verdict], key: Callable[[Verdict], str]) -> list[str]:
    names = [name for name, _ in _COLUMNS]
    lines = [f"| {head} | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    groups = dict.fromkeys(map(key, verdicts))
    for group in [*groups, "all"]:
        of_group = [each for each in verdicts if group in (key(each), "all")]
        cells = [str(_count(of_group, name, wanted)) for name, wanted in _COLUMNS]
        lines.append(f"| {group} | {' | '.join(cells)} |")
    return lines


def _count(verdicts: Sequence[Verdict], name: str, wanted: tuple[Outcome, ...]) -> int:
    if not wanted:
        return sum(each.changes for each in verdicts if each.outcome is not Outcome.INVALID)
    return sum(each.outcome in wanted for each in verdicts)
