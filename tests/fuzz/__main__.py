"""``python -m tests.fuzz``: damage an artifact in many ways, print a table, or repeat one case."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TRITON_INTERPRET", "1")

import glmc
from tests.fuzz.damage import KINDS
from tests.fuzz.judge import FAULTS, Outcome, Verdict, verdicts

ROOT = Path(__file__).parents[2]
TARGETS = ("cpu", "xpu", "cuda")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    numbers = range(arguments.first, arguments.first + arguments.count)
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for target in arguments.target or TARGETS:
            found = fuzz(made(Path(folder), target), target, numbers, arguments.jobs)
            print(f"{target}: {summary(found)}")
            for each in found:
                if each.outcome in FAULTS or arguments.count == 1:
                    print(f"  {each.name} {each.damage}\n    {each.outcome.value}: {each.text}")
            faults += sum(each.outcome in FAULTS for each in found)
    return int(faults > 0)


def made(folder: Path, target: str) -> Path:
    """An artifact of the small model with experts; ``xpu`` runs emulated here."""
    path = folder / target
    dtype = "float32" if target == "cpu" else None
    glmc.compile(ROOT / "models" / "tiny-moe", path, target=target, dtype=dtype)
    return path


def fuzz(artifact: Path, target: str, numbers: Sequence[int], jobs: int = 2) -> list[Verdict]:
    """The verdicts of the cases ``numbers``, spread over ``jobs`` processes."""
    shares = [numbers[start::jobs] for start in range(jobs)]
    with ThreadPoolExecutor(jobs) as pool:
        lists = list(pool.map(lambda share: list(verdicts(artifact, target, share)), shares))
    return [each for one in lists for each in one]


def summary(found: Sequence[Verdict]) -> str:
    """One line: cases by outcome."""
    counts = Counter(each.outcome for each in found)
    parts = ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome)
    return f"{len(found)} cases of {len(KINDS)} kinds of damage: {parts}"


if __name__ == "__main__":
    sys.exit(main())
