"""The csv has torch_xray's columns as they are, and every number that the result has."""

from __future__ import annotations

import math
from pathlib import Path

import pandas
import pytest

from glmc.check.align.csv_file import OURS, XRAY_COLUMNS, require_csv_place, write_csv
from glmc.check.align.result import Verdict
from glmc.errors import UsageError
from tests.check.align.aligned_values import (
    UNKNOWN,
    a_router,
    a_value,
    an_alignment,
    emulated,
    off_by,
)


def test_torch_xray_s_columns_come_first_in_its_spelling(tmp_path: Path) -> None:
    path = tmp_path / "result.csv"
    other = "h.1.mlp.Mlp.0.forward_output.0"
    failed = a_value(1, "mlp", 0.5, verdict=Verdict.FAIL, reason="too, far", other_name=other)
    write_csv(path, an_alignment(a_value(0, "mlp"), failed))
    table = pandas.read_csv(path, keep_default_na=False)
    assert tuple(table.columns[:8]) == XRAY_COLUMNS
    assert list(table.columns[8:]) == [*OURS, "Emulated"]
    assert table["Index"].tolist() == [0, 1]
    assert table["Status"].tolist() == ["", "Fail"]
    assert table["Module (Bench/Target)"].tolist() == [
        "model.layers.0.mlp.Linear.0.forward_output.0",
        f"model.layers.1.mlp.Linear.0.forward_output.0 / {other}",
    ]
    assert table["RMSE"].tolist() == [0.01, 0.5]
    assert table["IsClose (%)"].tolist() == [75, 75]
    assert table["Max Err (t)"].tolist() == [0.04, 2.0]
    assert table["GtNum"].tolist() == [24, 24]
    assert table["Reason"].tolist() == ["", "too, far"]
    assert table["Passes"][1] == "rms_norm qkv_merge"
    assert table["Emulated"].tolist() == [False, False]


def test_own_error_routers_and_emulation_have_columns(tmp_path: Path) -> None:
    path = tmp_path / "result.csv"
    own = a_value(0, "mlp", own=off_by(0.1), inherited=off_by(0.2), bound=0.3, numerics="reordered")
    write_csv(path, emulated(an_alignment(own, a_router(1, 0.25, 0.5))))
    table = pandas.read_csv(path)
    assert table["Own RMSE"][0] == 0.1 and math.isnan(table["Own RMSE"][1])
    assert (table["Own Bound"][0], table["Inherited Max Err"][0]) == (0.3, 0.8)
    assert (table["Same Experts"][1], table["Routed Tokens"][1]) == (7, 8)
    assert table["Largest Margin"][1] == 0.25
    assert table["Emulated"].tolist() == [True, True]


def test_what_is_not_known_is_an_empty_cell(tmp_path: Path) -> None:
    path = tmp_path / "result.csv"
    write_csv(path, an_alignment(a_value(0, "mlp", total=UNKNOWN, share=None)))
    table = pandas.read_csv(path)
    for column in ("Cosine", "RMSE", "IsClose (%)", "Max Err (t)", "GtNum", "Of Allowed"):
        assert math.isnan(table[column][0]), column


def test_only_a_csv_of_ours_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "result.csv"
    require_csv_place(path)
    write_csv(path, an_alignment())
    require_csv_place(path)
    summary = tmp_path / "run_summary.csv"
    summary.write_text("Index,Step,Rank,Module\n")
    with pytest.raises(UsageError, match="no csv of an alignment"):
        require_csv_place(summary)
    with pytest.raises(UsageError, match="can't be written"):
        write_csv(tmp_path / "nowhere" / "result.csv", an_alignment())
