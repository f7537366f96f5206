"""``python -m tests.mutation``: judge mutants, print the summary, or reproduce one by its name."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("TORCH_FAKE_TENSOR_DISPATCH_CACHE", "0")

import pytest
import torch

from tests.mutation.judge import FAULTS, Verdict, by_name, judge, mutated, verdicts_of
from tests.mutation.subjects import SUBJECTS, base
from tests.mutation.summary import faults, in_full, summary
from tests.support.quick_functional import quick_functional


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--mutant", help="judge this one and print its program")
    parser.add_argument("--subject", default="", help="only spellings whose name contains this")
    parser.add_argument("--limit", type=int, default=3, help="mutants of a spelling and kind")
    parser.add_argument("--all", action="store_true", help="every mutant")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", type=Path, help="a file for spellings by kinds")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    _quick()
    if arguments.mutant:
        return _one(arguments.mutant)
    names = [name for name in SUBJECTS if arguments.subject in name]
    # A spelling is traced once for both phases.
    spellings = [tuple(group) for _, group in groupby(names, lambda name: name.rpartition(".")[0])]
    limit = None if arguments.all else arguments.limit
    found: list[Verdict] = []
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn"), _quick) as pool:
        for of_one in pool.map(partial(verdicts_of, limit=limit), spellings):
            found += of_one
            for line in faults(of_one):
                print(line, file=sys.stderr, flush=True)
            if arguments.write:
                text = f"{summary(found)}\n\n{in_full(found)}\n"
                arguments.write.write_text(text, encoding="utf-8")
    print(summary(found))
    return int(any(each.outcome in FAULTS for each in found))


def _quick() -> None:
    """Spellings are traced as in the tests, so that mutants have the same names in both."""
    quick_functional(pytest.MonkeyPatch())


def _one(name: str) -> int:
    subject, mutation = by_name(name)
    print(mutated(base(subject), mutation).graph)
    verdict = judge(subject, mutation)
    print(f"{verdict.name}\n{verdict.outcome.value}: {verdict.text}")
    print(f"by itself it computes {'other' if verdict.changes else 'the same'} values")
    return int(verdict.outcome in FAULTS)


if __name__ == "__main__":
    sys.exit(main())
