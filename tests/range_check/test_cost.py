"""The floor of a step: work by the facts of the ops, seconds by rates that are handed in."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc.config import CompileOptions
from glmc.job import read_job
from glmc.range_check.cost import Rates, Work, predictions, work_of
from glmc.range_check.decide import _fused
from tests.range_check.altered import DENSE, checkpoint

pytestmark = pytest.mark.usefixtures("shared_captures")


def test_products_are_counted_by_tokens_and_weights_once(tmp_path: Path) -> None:
    job = read_job(checkpoint(tmp_path / "model", DENSE), CompileOptions())
    program = _fused(job)
    few, many = (work_of(program, 1, tokens) for tokens in (8, 16))
    # Products of weights double, scores of attention fourfold.
    shape = job.source.shape
    scores = 4 * shape.layers * shape.query_heads * shape.head_dim
    linear = [
        sum(each.flops for each in work) - scores * tokens**2
        for work, tokens in ((few, 8), (many, 16))
    ]
    assert linear[0] > 0 and linear[1] == 2 * linear[0]
    embedding = shape.vocabulary * shape.hidden  # of which only the rows of tokens are read
    weights = sum(weight.bytes for weight in program.weights.values())
    moved = sum(each.bytes for each in few)
    assert moved > weights - 2 * embedding
    assert sum(each.bytes for each in many) < 2 * moved


def test_whichever_takes_longer_counts() -> None:
    assert Work(100, 10).seconds(10.0, 10.0) == 10.0
    assert Work(10, 100).seconds(10.0, 10.0) == 10.0


def test_a_step_that_memory_bounds_is_alike_in_both(tmp_path: Path) -> None:
    program = _fused(read_job(checkpoint(tmp_path / "model", DENSE), CompileOptions()))
    rates = Rates("x", {"float16": 2e15, "bfloat16": 1e15}, 1e9, "no source")
    prefill, decode = predictions(program, rates, ("float16", "bfloat16"), prefill=8, decode=2)
    (halved, _) = predictions(program, rates, ("float16", "bfloat16"), prefill=8, decode=2, ranks=2)
    assert halved.startswith("predicted for 2 x x (no source)")
    times = [float(line.partition("at least ")[2].split()[0]) for line in (prefill, halved)]
    assert times[1] == pytest.approx(times[0] / 2, rel=0.02)
    for line in (prefill, decode):
        first, second = line.partition("at least ")[2].split(" and ")
        assert first.partition(" in ")[0] == second.partition(" in ")[0]
