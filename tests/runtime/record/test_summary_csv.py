"""The summary beside a record."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from glmc_runtime.record.summary_csv import SummaryCsv, SummaryLine, is_summary, summary_path
from glmc_runtime.record.tensors import Statistics


def test_it_has_torch_xrays_columns_and_then_ours(tmp_path: Path) -> None:
    path = summary_path(tmp_path / "run.h5")
    assert path.name == "run_summary.csv"
    nothing = Statistics(math.nan, math.nan, math.nan, math.nan, 6, 0)
    with SummaryCsv(path, rank=3) as summary:
        known = Statistics(-1.5, 2.0, 0.25, 1.0, 0, 1)
        summary.add(0, "a.Linear.0.forward_output.0", SummaryLine("bfloat16", (2, 3), known, "a#x"))
        summary.add(1, "b.Linear.0.forward_output.0", SummaryLine("float32", (6,), nothing, ""))
    table = pd.read_csv(path)
    assert list(table.columns) == [
        *("Index", "Step", "Rank", "Module", "Min", "Max", "Mean", "Std"),
        *("dtype", "shape", "nan", "inf", "node"),
    ]
    first, second = table.itertuples(index=False)
    assert first[:4] == (0, 0, 3, "a.Linear.0.forward_output.0")
    assert first[4:] == (-1.5, 2.0, 0.25, 1.0, "bfloat16", "[2, 3]", 0, 1, "a#x")
    assert (second.Index, second.Step, second.nan) == (1, 1, 6) and math.isnan(second.Min)
    assert is_summary(path) and not is_summary(tmp_path)
