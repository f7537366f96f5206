"""A program compared with eager code, call by call, and what became of many of them."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed

from glmc_runtime.errors import GlmcError
from tests.dynamo.compiled import watched
from tests.random_programs.programs import Program, change

# Of the largest value: sums in another order, and what is rounded to bfloat16 on the way.
_LIMITS = {torch.float32: 2e-4, torch.float64: 1e-6, torch.bfloat16: 6e-2}


@dataclass
class Tally:
    """What became of the programs that were tried, each on each target."""

    found: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        names = ("tried", "fused", "equal", "refused", "silent", "failed", "eager fails")
        return ", ".join(f"{name} {self.found[name]}" for name in names)


class WrongProgramError(AssertionError):
    """Another value than eager code's (``silent``), or an error that eager code does not raise."""


def compare(program: Program, target: str, tally: Tally) -> None:
    """Raises WrongProgramError; counts everything."""
    tally.found["tried"] += 1
    eager = program.model()
    model = copy.deepcopy(eager)
    with watched() as graphs, torch.no_grad():
        function = torch.compile(
            model, backend="kunlun", dynamic=program.dynamic, options={"target": target}
        )
        for call in range(len(program.tokens)):
            if call:
                change(eager, program.changes[call - 1])
                change(model, program.changes[call - 1])
            twins, given = program.inputs(call), program.inputs(call)
            try:
                expected = eager(*twins)
            except (RuntimeError, IndexError, ValueError):
                tally.found["eager fails"] += 1
                return
            try:
                found = function(*given)
            except BackendCompilerFailed as error:
                if not isinstance(error.inner_exception, GlmcError):
                    tally.found["failed"] += 1
                    raise WrongProgramError(f"call {call} on {target}: {error}") from error
                tally.found["refused"] += 1
                return
            except Exception as error:
                tally.found["failed"] += 1
                raise WrongProgramError(f"call {call} on {target}: {error}") from error
            of = getattr(torch, program.dtype)  # what was rounded to it on the way
            problem = _differ([*found, *given], [*expected, *twins], len(expected), _LIMITS[of])
            if problem:
                tally.found["silent"] += 1
                raise WrongProgramError(f"call {call} on {target}: {problem}")
    tally.found["equal"] += 1
    names = ("canonical", "clean")
    tally.found["fused"] += any(
        record.matches for graph in graphs for record in graph.records if record.name not in names
    )


def _differ(found: list[Any], expected: list[Tensor], outputs: int, least: float) -> str:
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        name = f"output {index}" if index < outputs else f"input {index - outputs} afterwards"
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return f"{name} is {one.dtype} {list(one.shape)}, not {other.dtype} {list(other.shape)}"
        limit = _LIMITS.get(other.dtype)
        if limit is None:
            if not torch.equal(one, other):
                return f"{name} has other values"
            continue
        limit, largest = max(limit, least), max(float(other.nan_to_num(0, 0, 0).abs().max()), 1e-3)
        off = float((one - other).nan_to_num(0, 0, 0).abs().max()) / largest
        if off > limit or not torch.equal(one.isnan(), other.isnan()):
            return f"{name} is off by {off:.2g} of the largest value"
    return ""
