"""Prove at full width that all ranks of a preset together compute what one does; no device needed.

    python tools/shard_proof.py
    python tools/shard_proof.py --models glm-4.7 glm-4-9b-0414 --ranks 2,8

Of each model one layer of each kind is captured and dealt, by width and, where it has experts, also
by expert; weights are random and in the checkpoint's dtype. A row has what was compared and the
largest share of the bound of a reordered value that was taken (docs/verification.md); the peak is
that of the process. Exits with 1 where a value is beyond it.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator

from glmc.capture.export import capture
from glmc.capture.model import CaptureOptions
from glmc.check.verify.scope import VerifiedPart, full_width
from glmc.check.verify.verdict import Verdict
from glmc.check.verify.verifier import verify_pass
from glmc.ir.program import Program
from glmc.passes.kv_cache import KvCache
from glmc.passes.shard import Shard
from glmc.pipeline import runner
from glmc.presets.catalog import load_config, preset_names
from glmc.presets.matches import expected_collectives

BLOCK = 16
RANKS = "2,4,8"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(preset_names()), metavar="NAME")
    parser.add_argument("--ranks", default=RANKS, metavar="N,N")
    asked = parser.parse_args()
    wrong = 0
    for name in asked.models:
        for row, verdict in proofs(name, tuple(map(int, asked.ranks.split(",")))):
            print(f"| {row} | {verdict.text} |", flush=True)
            wrong += not verdict.holds
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    return min(wrong, 1)


def proofs(name: str, ranks: tuple[int, ...]) -> Iterator[tuple[str, Verdict]]:
    """A row of words and the verdict, of each way to deal a model."""
    source = load_config(name)
    scope = full_width(source, source.dtype)
    before = paged(scope)
    ways = (False, True) if scope.source.fields.moe is not None else (False,)
    for count in ranks:
        for by_expert in ways:
            started, after = time.perf_counter(), before.copy()
            record = runner.run_pass(Shard(count, by_expert), after)
            found, expected = len(record.matches), expected_collectives(scope.source.fields)
            if found != sum(expected.values()):
                raise SystemExit(f"{name}: {found} collectives where {expected} must be")
            verdict = verify_pass(before, after, record, scope.cases, scope.weights)
            way = "by expert" if by_expert else "by width"
            seconds = time.perf_counter() - started
            yield f"{name} | {count} | {way} | {found} | {seconds:.0f} s", verdict


def paged(scope: VerifiedPart) -> Program:
    """The program that is dealt, whole."""
    source = scope.source
    program = capture(source.config, source.shape, scope.dtype, CaptureOptions(folded=True))
    runner.fuse(program)
    runner.run_pass(KvCache(BLOCK), program)
    return program


if __name__ == "__main__":
    sys.exit(main())
