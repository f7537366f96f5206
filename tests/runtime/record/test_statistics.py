"""Statistics of a tensor, in parts."""

from __future__ import annotations

import math

import pytest
import torch

from glmc_runtime.format.tensor_key import TensorKey
from glmc_runtime.record import statistics
from glmc_runtime.record.blocks import blocks
from glmc_runtime.record.statistics import RunningStatistics, recorded_statistics, statistics_of
from glmc_runtime.record.tensors import RecordedTensor, Statistics


def test_they_are_numpys() -> None:
    values = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
    found, array = statistics_of(values), values.double().numpy()
    assert (found.minimum, found.maximum) == (array.min(), array.max())
    assert found.mean == pytest.approx(array.mean(), rel=1e-14)
    assert found.std == pytest.approx(array.std(), rel=1e-14)
    assert (found.nan, found.inf) == (0, 0)


def test_parts_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far from zero, where a sum of squares would have no digit left of the deviation."""
    values = 1e6 + torch.randn(5, 33, dtype=torch.float64)
    running = RunningStatistics()
    for piece in values.split(2):
        running.add(piece)
    monkeypatch.setattr(statistics, "blocks", lambda shape: blocks(shape, 4))
    for found in (running.result(), statistics_of(values.t())):
        assert found.std == pytest.approx(float(values.std(correction=0)), rel=1e-9)
        assert found.mean == pytest.approx(float(values.mean()), rel=1e-14)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    found = statistics_of(torch.tensor([1.0, math.nan, 3.0, math.inf, -math.inf, math.nan]))
    assert found == Statistics(1.0, 3.0, 2.0, 1.0, 2, 2)


def test_without_finite_elements_there_are_counts_alone() -> None:
    for values, nan in ((torch.full((2,), math.nan), 2), (torch.empty(0, 3), 0)):
        found = statistics_of(values)
        assert (found.nan, found.inf) == (nan, 0)
        assert all(map(math.isnan, (found.minimum, found.maximum, found.mean, found.std)))


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int64, torch.uint8, torch.bfloat16, torch.float8_e4m3fn]
)
def test_every_dtype_has_some(dtype: torch.dtype) -> None:
    assert statistics_of(torch.tensor([0, 1, 1, 0]).to(dtype)) == Statistics(0, 1, 0.5, 0.5, 0, 0)


def test_nothing_large_is_made_of_a_broadcast_tensor() -> None:
    """A part at a time: whole, in float64, these would be 80 GB."""
    rows = torch.ones(1, 1).expand(100_000, 100_000)
    first = next(iter(blocks(rows.shape)))
    assert rows[first].numel() <= 1 << 22
    assert statistics_of(rows[:300]) == Statistics(1, 1, 1, 0, 0, 0)


def test_of_another_tools_file_the_elements_are_asked() -> None:
    key = TensorKey("a", "Linear", 0, "forward_output", "0")
    ours = Statistics(0, 0, 0, 0, 0, 0)
    fields = (0, 0, key, "float32", (2,))
    assert recorded_statistics(RecordedTensor(*fields, statistics=ours)) is ours
    assert recorded_statistics(RecordedTensor(*fields, statistics=None)) is None
    foreign = RecordedTensor(*fields, statistics=None, load=lambda: torch.tensor([1.0, 3.0]))
    assert recorded_statistics(foreign) == Statistics(1, 3, 2, 1, 0, 0)
