"""Compiles models of one tree and writes their plans as they are: ``worker.py FOLDER TARGETS``.

It runs with the ``glmc`` and ``glmc_runtime`` of the tree to look at, which may be that of another
commit, and so imports nothing else. Each line of its input is a name and what to compile; each
is answered by one line. Capture and passes ask no target: a model goes through them once.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from glmc.backends import target_by_name
from glmc.compiler import back_end, front_end
from glmc.config import TARGETS, CompileOptions
from glmc.errors import GlmcError
from glmc.job import read_job, resolve
from glmc.presets.catalog import preset_names
from glmc_runtime.format.plan_json import phase_to_json

_OLD_FIELDS = ("prefill", "decode")

Files = dict[str, dict[str, str]]
"""By target the files of its phases; under ``error`` why there are none."""


def targets(wanted: tuple[str, ...]) -> Iterator[tuple[str, str, str | None]]:
    """(label, target, profile) of all that ``wanted`` names; nothing named is all."""
    for target in TARGETS:
        for profile in target_by_name(target).profiles or (None,):
            label = target if profile is None else f"{target}/{profile}"
            if not wanted or {target, label} & set(wanted):
                yield label, target, profile


def write_plans(model: str, folder: Path, wanted: tuple[str, ...] = ()) -> Files:
    """Compile a preset, or the checkpoint at a path, and write each phase of each target."""
    # A checkpoint's own headers say what dtype its routers have; a preset has none.
    weights = "none" if model in preset_names() else "checkpoint"
    labels = list(targets(wanted))
    try:
        front = front_end(read_job(model, CompileOptions(weights=weights)))
    except GlmcError as error:
        return {label: {"error": str(error)} for label, _, _ in labels}
    written: Files = {}
    for label, target, profile in labels:
        options = CompileOptions(target=target, abi_profile=profile, weights=weights)
        try:
            compiled = back_end(front, resolve(front.job.source, options))
        except GlmcError as error:
            written[label] = {"error": str(error)}
            continue
        place = folder / label
        place.mkdir(parents=True, exist_ok=True)
        # Commits before phases were data have a field for each.
        phases = [vars(compiled)[name] for name in _OLD_FIELDS if name in vars(compiled)]
        for lowered in phases or compiled.phases.values():
            recipes = {name: described(weight) for name, weight in lowered.weights.items()}
            data = {"plan": phase_to_json(lowered.plan), "weights": recipes}
            file = place / f"{lowered.plan.name}.json"
            file.write_text(json.dumps(data), encoding="utf-8")
            written.setdefault(label, {})[lowered.plan.name] = str(file)
    return written


def described(tree: Any) -> Any:
    """Records of any kind as plain data, each under the name of its class."""
    if is_dataclass(tree):
        parts = {field.name: described(getattr(tree, field.name)) for field in fields(tree)}
        return {type(tree).__name__: parts}
    if isinstance(tree, Mapping):
        return {str(key): described(value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return [described(item) for item in tree]
    return tree if isinstance(tree, (str, int, float, type(None))) else str(tree)


def require_own_modules(root: Path) -> None:
    """End the process where a module that the tree lacks was found in what is installed."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.split(".")[0] not in ("glmc", "glmc_runtime") or file is None:
            continue
        if not Path(file).resolve().is_relative_to(root):
            sys.exit(f"{root} has no {name}, and {file} is of another tree")


def main() -> None:
    require_own_modules(Path.cwd())
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    wanted = tuple(filter(None, sys.argv[2].split(",")))
    # Whatever a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, model = line.rstrip("\n").split("\t")
        print(json.dumps(write_plans(model, folder / name, wanted)), file=answers, flush=True)


if __name__ == "__main__":
    main()
