"""The fenced blocks, prose and sections of the repository's markdown files, for tests."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_FENCE = re.compile(r"^(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w-]*)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language ('' for none), its lines, and the line of its opening fence."""

    language: str
    lines: tuple[str, ...]
    line: int

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def markdown_files() -> list[Path]:
    """Every markdown file that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def blocks(path: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a file in order, all or those of the given languages."""
    found: list[Block] = []
    start, language, fence = 0, "", ""
    lines: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = _FENCE.match(line)
        if not fence and match is not None:
            start, language, fence, lines = number, match["language"], match["fence"], []
        elif fence and line.strip() == fence:
            found.append(Block(language, tuple(lines), start))
            fence = ""
        elif fence:
            lines.append(line)
    if fence:
        raise ValueError(f"{path}:{start}: the block is never closed")
    return [block for block in found if block.language in languages] if languages else found


def prose(path: Path) -> list[tuple[int, str]]:
    """(line number, line) of everything outside fenced blocks."""
    inside = {
        number
        for block in blocks(path)
        for number in range(block.line, block.line + len(block.lines) + 2)
    }
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(number, line) for number, line in enumerate(lines, 1) if number not in inside]


def section(path: Path, title: str) -> str:
    """The text below a heading, up to the next heading of the same or a higher level."""
    text, depth, kept = path.read_text(encoding="utf-8"), 0, []
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        level = len(line) - len(line.lstrip("#")) if not fenced else 0
        if level and depth and level <= depth:
            break
        if level and line.lstrip("# ") == title:
            depth = level
        elif depth:
            kept.append(line)
    if not depth:
        raise ValueError(f"{path} has no section '{title}'")
    return "\n".join(kept)


def table_rows(text: str) -> list[list[str]]:
    """Cells of all table rows in a text, heads and rulers left out."""
    lines = [line.strip() for line in text.splitlines()]
    rows = []
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if line.startswith("|") and not set(line) <= set("|-: ") and not following.startswith("|-"):
            cells = re.split(r"(?<!\\)\|", line.strip("|"))
            rows.append([cell.strip() for cell in cells])
    return rows
