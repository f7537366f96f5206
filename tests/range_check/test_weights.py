"""Weights are read once, in pieces, and none is forgotten."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

import pytest
import torch

from glmc.config import CompileOptions
from glmc.ir.recipe import sources
from glmc.job import read_job
from glmc.range_check.decide import _fused
from glmc.range_check.weights import weight_range
from glmc.weights.source import WeightSource
from tests.range_check.altered import MOE, checkpoint

pytestmark = pytest.mark.usefixtures("shared_captures")
PIECE = 256


class Counted:
    """A source that keeps how much was read of each parameter, and the largest piece."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source
        self.read_of: Counter[str] = Counter()
        self.largest = 0
        self.raised: dict[str, float] = {}

    @property
    def description(self) -> str:
        return self._source.description

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._source.dtype(name)

    def read(self, name: str, begin: int, count: int) -> torch.Tensor:
        self.read_of[name] += count
        piece = self._source.read(name, begin, count)
        self.largest = max(self.largest, piece.nbytes)
        if name in self.raised:
            piece[-1] = self.raised[name]
        return piece


def test_every_parameter_is_read_once_in_pieces(tmp_path: Path) -> None:
    job = read_job(checkpoint(tmp_path / "model", MOE), CompileOptions(dtype="bfloat16"))
    program = _fused(job)
    assert job.weights is not None
    source = Counted(job.weights)
    found = weight_range(program, source, PIECE)
    parameters = {
        each.name: prod(each.shape)
        for weight in program.weights.values()
        for each in sources(weight.recipe)
    }
    assert source.read_of == parameters
    assert source.largest <= PIECE
    routers = sum(name.endswith("e_score_correction_bias") for name in parameters)
    assert routers and found.count == len(parameters) - routers
    assert found.outside == 0 and found.worst is None


def test_a_bias_that_stays_float32_may_be_large_and_must_be_finite(tmp_path: Path) -> None:
    job = read_job(checkpoint(tmp_path / "model", MOE), CompileOptions(dtype="bfloat16"))
    program = _fused(job)
    assert job.weights is not None
    source = Counted(job.weights)
    bias = next(name for name in program.weights if name.endswith("e_score_correction_bias"))
    source.raised = {bias: 1e6}
    assert weight_range(program, source).outside == 0
    source.raised = {bias: float("inf")}
    found = weight_range(program, source)
    assert found.outside == 1 and found.worst is not None and found.worst.name == bias
