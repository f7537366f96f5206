"""What ``--verify`` has proved of a whole model: ``glmc bisect`` need not prove it again.

A small file in the cache folder for each model, weights, inputs and options of the graphs, versions
and sources of glmc, and kind of processor: where any of these is another, nothing is known. They
are read when a proof begins and when it ends; of files that changed in between nothing is kept. A
proof that fails leaves what it has proved before. Nothing is kept where a pass of another
distribution takes part, since its changes would go unnoticed, and nothing of a replay, which
depends on all that the runtime meets on a machine.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from glmc.artifact.inputs import ReadInputs, inputs_json, read_inputs
from glmc.check.verify.proof import Proof
from glmc.check.verify.scope import is_whole, model_cases
from glmc.errors import GlmcError
from glmc.job import Job
from glmc.weights.checkpoint import Checkpoint
from glmc_runtime.kernels.cpu.kept import NotOwnError, cache_folder

_LOG = logging.getLogger("glmc.verify")
_FOLDER = "proofs"
_FILES = 64
"""Files that are kept; the oldest go first."""
# What of the options shapes a graph.
_OF_GRAPHS = (
    "block_size",
    "seed",
    "allow_missing",
    "full_capture",
    "capture_attention",
    "capture_experts",
    "marked",
    "passes_on",
    "passes_off",
    "tensor_parallel",
    "expert_parallel",
    "deterministic",
)
_UNUSABLE = (OSError, RuntimeError, NotOwnError)


def proved_steps(job: Job) -> frozenset[str]:
    """The steps that were proved of the model of a job, by the names that proof.py gives them; none
    where it is not known."""
    key = _key(job)
    if key is None:
        return frozenset()
    try:
        return _read(cache_folder(_FOLDER) / key)
    except _UNUSABLE as error:
        _LOG.info("what was proved before can't be read: %s", error)
        return frozenset()


@contextmanager
def remembered(proof: Proof | None, inputs: ReadInputs | None = None) -> Iterator[None]:
    """Keep what the block proves, also where it ends with a step that is wrong. ``inputs`` were
    read before the model was; None: they are read when the block begins."""
    if proof is None or not is_whole(proof.job.source):
        yield
        return
    key = _key(proof.job, inputs)
    try:
        yield
    finally:
        steps = list(proof.proved())
        if key is None or not steps:
            pass
        elif _key(proof.job) == key:
            _keep(key, steps)
        else:
            _LOG.info("what was proved is not kept: files changed meanwhile")


def _keep(key: str, steps: Iterable[str]) -> None:
    try:
        folder = cache_folder(_FOLDER)
        path = folder / key
        text = json.dumps(sorted({*steps, *_read(path)}), indent=1)
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
            file.write(text)
        os.replace(file.name, path)
        for old in sorted(folder.iterdir(), key=lambda each: each.stat().st_mtime)[:-_FILES]:
            old.unlink()
    except _UNUSABLE as error:
        _LOG.info("what was proved is not kept: %s", error)


def _read(path: Path) -> frozenset[str]:
    try:
        steps = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except ValueError as error:
        _LOG.info("%s is damaged: %s", path, error)
        return frozenset()
    return frozenset(step for step in steps if isinstance(step, str))


def _key(job: Job, inputs: ReadInputs | None = None) -> str | None:
    """The name of the file; None where what a proof depends on can't be told."""
    try:
        read = inputs or read_inputs(job.source.directory, job.source.name, job.options)
    except GlmcError:
        return None
    if read.inputs.extensions or job.selection.added:
        return None
    plain: dict[str, Any] = inputs_json(read.inputs)
    plain["options"] = {name: plain["options"][name] for name in _OF_GRAPHS}
    plain["weights"] = "checkpoint" if isinstance(job.weights, Checkpoint) else "random"
    plain["dtype"] = str(job.dtype)
    plain["cases"] = [case.name for case in model_cases(job.source)]
    plain["modified"] = read.modified
    # Whose instructions torch computes with: sums come out in another order.
    plain["processor"] = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    return f"{sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()}.json"
