"""Another commit beside this tree, and what differs between the plans of both."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import dropwhile, zip_longest
from pathlib import Path

from glmc.errors import UsageError


@contextmanager
def worktree(repository: Path, commit: str) -> Iterator[Path]:
    """A commit's files in a temporary folder; raises UsageError when there is no such commit."""
    name = f"{commit}^{{commit}}"
    known = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", name)
    if known.returncode:
        raise UsageError(
            f"there is no commit '{commit}'",
            place=str(repository),
            remedy="name a commit of this repository; a shallow clone lacks older ones",
        )
    with tempfile.TemporaryDirectory(prefix="plan-replay-") as folder:
        path = Path(folder).resolve() / "tree"
        added = _git(repository, "worktree", "add", "--detach", str(path), known.stdout.strip())
        if added.returncode:
            raise UsageError(
                f"git makes no worktree of '{commit}'",
                place=str(repository),
                found=added.stderr.strip(),
                remedy="see what git says",
            )
        try:
            yield path
        finally:
            _git(repository, "worktree", "remove", "--force", str(path))


def unified_diff(old: Path, new: Path, most: int) -> str:
    """From one canonical plan to another, each hunk under the call it is in, ``most`` lines of it;
    0 is all."""
    # git's diff is quick on plans of thousands of alike calls, where difflib takes minutes.
    command = ["git", "diff", "--no-index", "--no-ext-diff", "--no-color", "--histogram"]
    done = subprocess.run(
        [*command, "--", str(old), str(new)], capture_output=True, text=True, encoding="utf-8"
    )
    # In front of the first hunk git names two temporary files.
    lines = list(dropwhile(lambda line: not line.startswith("@@"), done.stdout.splitlines()))
    left = len(lines) - most if most else 0
    if left > 0:
        lines = [*lines[:most], f"... and {left} more lines; --lines 0 shows all"]
    return "\n".join(lines)


def first_difference(old: str, new: str) -> str:
    """Where two canonical plans first differ: a call of the new one, or a part of the plan."""
    was, now = old.splitlines(), new.splitlines()
    pairs = enumerate(zip_longest(was, now))
    first = next((index for index, (line, other) in pairs if line != other), None)
    if first is None:
        return "nothing"
    lines = now if first < len(now) else was
    # What begins with a call stands before it; the rest of a call is indented by two.
    after = range(first, -1, -1) if lines[first].startswith("  ") else range(first, len(lines))
    return next((lines[index] for index in after if not lines[index].startswith(" ")), "the end")


def _git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
