"""docs/spellings.md: what the passes recognise and refuse, from the zoo itself.

``python -m tests.zoo.table`` writes the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.zoo import attends, experts, experts_twists, gate, gate_twists, norm, rotations

DOCUMENT = Path(__file__).parents[2] / "docs" / "spellings.md"

_HEAD = """\
# Spellings

What each pattern pass recognises and what it refuses, as transformers and users write it. Every
row is a program under `tests/zoo/`. A spelling is traced, the pass fires once, and the program
after it must be line by line the program that the first spelling leaves (of rope, the first whose
pairs lie the same way); then both are run and compared. A twist looks like a spelling but computes
something else, or rounds elsewhere: the pass must leave it as it is and give a reason with the
words below; a dump and `glmc inspect ARTIFACT --why-not PASS` print the whole of it. Versions are
those of transformers whose own classes are written this way, read in their source; the tests run
those of constraints.txt, and `make test-versions` six others.

A model of yours is refused though it computes the same? That is a spelling that is missing here:
`--why-not` names the node and the condition.

This file is written by `python -m tests.zoo.table`.
"""


@dataclass(frozen=True)
class Section:
    """``spellings`` are (name, origin), ``twists`` are (name, reason)."""

    pass_name: str
    canonical: str
    tests: str
    spellings: tuple[tuple[str, str], ...]
    twists: tuple[tuple[str, str], ...]


def sections() -> tuple[Section, ...]:
    return (
        Section(
            "moe_gate",
            "glmc.moe_gate",
            "test_moe_gate.py",
            tuple((_words(kind), origin) for kind, origin in gate.SPELLINGS.items()),
            tuple((_words(kind), reason) for kind, reason in gate_twists.TWISTS.items()),
        ),
        Section(
            "moe_ffn",
            "glmc.moe_ffn",
            "test_moe_ffn.py",
            tuple((_words(kind), origin) for kind, origin in experts.SPELLINGS.items()),
            tuple((_words(kind), reason) for kind, reason in experts_twists.TWISTS.items()),
        ),
        Section(
            "rms_norm",
            "glmc.rms_norm",
            "test_rms_norm.py",
            tuple((_words(kind), origin) for kind, origin in norm.SPELLINGS.items()),
            tuple((_words(kind), reason) for kind, reason in norm.TWISTS.items()),
        ),
        Section(
            "rope",
            "glmc.rope",
            "test_rope.py",
            tuple((_plain(name), each.origin) for name, each in rotations.SPELLINGS.items()),
            tuple((_plain(name), reason) for name, (_, reason) in rotations.TWISTS.items()),
        ),
        Section(
            "attention",
            "glmc.attention",
            "test_attention.py",
            tuple((_plain(name), each.origin) for name, each in attends.SPELLINGS.items()),
            tuple((_plain(name), reason) for name, (_, reason) in attends.TWISTS.items()),
        ),
    )


def document() -> str:
    return "\n".join([_HEAD, *(line for each in sections() for line in _lines(each))])


def _lines(section: Section) -> Iterator[str]:
    yield f"## {section.pass_name}"
    yield ""
    yield f"The canonical node is `{section.canonical}`; tests: `tests/passes/{section.tests}`."
    yield ""
    yield from _table(("spelling", "where it comes from"), section.spellings)
    yield from _table(("refused", "reason"), section.twists)


def _table(head: tuple[str, str], rows: tuple[tuple[str, str], ...]) -> Iterator[str]:
    yield f"| {head[0]} | {head[1]} |"
    yield "|---|---|"
    for name, text in rows:
        yield f"| {name} | {text} |"
    yield ""


def _words(kind: type) -> str:
    """``TakeAlong`` as ``take along``, ``Batched512`` as ``batched 5.12``."""
    words = re.findall(r"[A-Z][a-z]*|\d+", kind.__name__)
    return " ".join(f"{word[0]}.{word[1:]}" if word.isdigit() else word.lower() for word in words)


def _plain(name: str) -> str:
    return name.replace("_", " ")


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
