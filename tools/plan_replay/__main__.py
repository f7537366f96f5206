"""Compare all plans with the stored digests, or with the plans of another commit.

python -m tools.plan_replay                     # exit status 1 when a plan differs
python -m tools.plan_replay --against main~3    # which calls differ
python -m tools.plan_replay --write             # after a change of plans that is meant
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from glmc.config import TARGETS
from glmc.errors import GlmcError, UsageError
from tools.plan_replay.against import first_difference, unified_diff, worktree
from tools.plan_replay.canonical import Renames
from tools.plan_replay.digests import (
    FILE,
    chosen,
    differences,
    other_versions,
    read_digests,
    write_digests,
)
from tools.plan_replay.tree import Plans, compile_tree, models_of

ROOT = Path(__file__).resolve().parents[2]
RENAMES = Path(__file__).with_name("renames.json")


def main(
    check: Annotated[
        bool, typer.Option("--check/--write", help="Compare with the stored digests; store them.")
    ] = True,
    against: Annotated[
        str, typer.Option(metavar="COMMIT", help="Compare with this commit, call by call.")
    ] = "",
    models: Annotated[str, typer.Option(help="Names with commas between; all.")] = "",
    targets: Annotated[str, typer.Option(help="Such as cpu,xpu/P-A; all.")] = "",
    jobs: Annotated[int, typer.Option(help="Models at a time; 0 is one a core.")] = 0,
    lines: Annotated[int, typer.Option(help="Lines of each plan's diff; 0 is all.")] = 60,
) -> None:
    """Compile presets and shipped models for all targets and compare their plans."""
    try:
        same = replay(_listed(models), _listed(targets), jobs, against, write=not check, most=lines)
    except GlmcError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_status) from error
    if not same:
        raise typer.Exit(1)


def replay(
    models: Sequence[str],
    targets: Sequence[str],
    jobs: int,
    against: str,
    write: bool,
    most: int,
) -> bool:
    """Whether all plans are what they were, or stored."""
    if write and against:
        raise UsageError("--write stores what this tree compiles to", remedy="drop --against")
    _require_known("--models", models, models_of(ROOT))
    _require_known("--targets", [target.partition("/")[0] for target in targets], TARGETS)
    wanted, jobs = models or list(models_of(ROOT)), jobs or os.cpu_count() or 1
    with ExitStack() as stack:
        # First, so that a commit that does not exist is known before minutes have passed.
        other = stack.enter_context(worktree(ROOT, against)) if against else None
        temporary = tempfile.TemporaryDirectory(prefix="plan-replay-")
        folder = Path(stack.enter_context(temporary))
        started = time.perf_counter()

        def told(model: str) -> None:
            _say(f"{time.perf_counter() - started:6.1f} s  {model}")

        plans = compile_tree(ROOT, folder / "here", wanted, targets, jobs, done=told)
        if other is not None:
            # A model that is only there is a difference as well, unless others were asked for.
            there, renames = models or list(models_of(other)), Renames.read(RENAMES)
            _say(f"{time.perf_counter() - started:6.1f} s  {against}:")
            old = compile_tree(other, folder / "there", there, targets, jobs, renames, told)
            return _compared(plans, old, against, most)
        stored = read_digests() if not write or models or targets else {}
        if write:
            return _stored(plans, stored, wanted, targets)
        return _checked(plans, chosen(stored, wanted, targets, all_models=not models))


def _checked(plans: Plans, stored: Plans) -> bool:
    differing = differences(plans, stored, FILE.name)
    for line in differing.values():
        print(line)
    print(f"{len(plans)} plans compared with {FILE.name}, {len(differing)} differ")
    if differing:
        for line in other_versions(ROOT / "constraints.txt"):
            print(line)
        print("--against COMMIT shows the calls that differ; --write stores a change that is meant")
    return not differing


def _compared(plans: Plans, old: Plans, commit: str, most: int) -> bool:
    differing = differences(plans, old, commit)
    for name, line in differing.items():
        print(line)
        here, there = plans.get(name), old.get(name)
        if here is None or there is None or here.file is None or there.file is None:
            continue
        print(f"first difference: {first_difference(there.text, here.text)}")
        print(unified_diff(there.file, here.file, most))
    print(f"{len(plans)} plans compared with {commit}, {len(differing)} differ")
    return not differing


def _stored(plans: Plans, stored: Plans, models: Sequence[str], targets: Sequence[str]) -> bool:
    failed = [f"{name}: {plan.error}" for name, plan in plans.items() if plan.error is not None]
    if failed:
        print("\n".join((*failed, f"{FILE.name} is left as it was")))
        return False
    replaced = chosen(stored, models, targets, all_models=False)
    untouched = {name: plan for name, plan in stored.items() if name not in replaced}
    write_digests({**untouched, **plans})
    print(f"{len(plans)} plans stored in {FILE.name}")
    return True


def _listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _require_known(option: str, names: Sequence[str], known: Collection[str]) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UsageError(
            f"{option} names what does not exist",
            expected=", ".join(sorted(known)),
            found=", ".join(unknown),
            remedy="name some of these, with commas between",
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(main)
