"""The stored digests: a line per plan, so that a change of plans shows in the commit's own diff."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from glmc.errors import UsageError
from tools.plan_replay.tree import Plan, PlanName, Plans

FILE = Path(__file__).with_name("digests.txt")
_HEAD = "# model target phase calls sha256, written by python -m tools.plan_replay --write"


def read_digests(file: Path = FILE) -> Plans:
    plans: Plans = {}
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for number, line in enumerate(lines, 1):
        if line.startswith("#"):
            continue
        try:
            model, target, phase, calls, sha256 = line.split()
            plans[PlanName(model, target, phase)] = Plan(sha256, int(calls))
        except ValueError as error:  # conflict markers of a merge, for instance
            raise UsageError(
                "a line of the stored digests is not well formed",
                place=f"{file}:{number}",
                expected="model target phase calls sha256",
                found=line,
                remedy="mend it, or rewrite the file with --write",
            ) from error
    return plans


def write_digests(plans: Mapping[PlanName, Plan], file: Path = FILE) -> None:
    lines = [f"{name} {plan.calls} {plan.sha256}" for name, plan in sorted(plans.items())]
    file.write_text("\n".join([_HEAD, *lines]) + "\n", encoding="utf-8")


def chosen(plans: Plans, models: Sequence[str], targets: Sequence[str], all_models: bool) -> Plans:
    """The plans of these models and targets; of ``all_models`` also those that are gone."""
    return {
        name: plan
        for name, plan in plans.items()
        if (all_models or name.model in models)
        and (not targets or {name.target, name.target.partition("/")[0]} & set(targets))
    }


def differences(plans: Plans, other: Plans, other_name: str) -> dict[PlanName, str]:
    """By plan, what a reader sees first of it."""
    lines = {}
    for name in sorted({*plans, *other}):
        here, there = plans.get(name), other.get(name)
        if here is None:
            lines[name] = f"{name}: only {other_name} has this plan"
        elif here.error is not None:
            lines[name] = f"{name}: does not compile: {here.error}"
        elif there is None:
            lines[name] = f"{name}: {other_name} has no such plan"
        elif there.error is not None:
            lines[name] = f"{name}: does not compile there: {there.error}"
        elif here.sha256 != there.sha256:
            calls = f"{there.calls} calls in {other_name}, {here.calls} here"
            lines[name] = f"{name}: {calls}; sha256 {there.sha256[:12]}, {here.sha256[:12]} here"
    return lines


def other_versions(constraints: Path) -> Iterator[str]:
    """Packages that trace a model and aren't of the version that the digests were made with."""
    for line in constraints.read_text(encoding="utf-8").splitlines():
        package, _, version = line.partition("==")
        if package in ("torch", "transformers"):
            installed = importlib.metadata.version(package).partition("+")[0]
            if installed != version.strip():
                yield f"{package} {installed} is installed, constraints.txt has {version.strip()}"
