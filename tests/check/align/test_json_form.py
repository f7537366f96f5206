"""The JSON has every field of the result, and only numbers that JSON has."""

from __future__ import annotations

import json
import math
from dataclasses import fields

from glmc.check.align.json_form import alignment_to_json
from glmc.check.align.result import AlignedValue, Difference, Verdict
from tests.check.align.aligned_values import UNKNOWN, a_router, a_value, an_alignment, emulated


def test_every_field_of_a_value_is_there() -> None:
    failed = a_value(1, "mlp", 0.5, verdict=Verdict.FAIL)
    alignment = an_alignment(a_value(0, "mlp"), failed, unpaired=(("x",), ()))
    data = json.loads(json.dumps(alignment_to_json(alignment), allow_nan=False))
    assert (data["first"], data["differs"], data["emulated"]) == (1, True, False)
    assert data["expected"]["label"] == "hf.h5"
    assert data["actual"]["facts"]["target"] == "xpu"
    assert data["unpaired"] == {"expected": ["x"], "actual": []}
    row = data["values"][1]
    assert set(row) == {each.name for each in fields(AlignedValue)}
    assert set(row["total"]) == {each.name for each in fields(Difference)} | {"relative"}
    assert (row["verdict"], row["layer"], row["own"]) == ("fail", 1, None)
    assert row["total"]["relative"] == 0.25
    assert row["passes"] == ["rms_norm", "qkv_merge"]


def test_what_is_no_number_of_json_is_null() -> None:
    nan = a_value(0, "a", total=UNKNOWN, verdict=Verdict.FAIL, share=math.inf)
    data = alignment_to_json(emulated(an_alignment(nan, a_router(1, 1e-4, 1e-3))))
    text = json.dumps(data, allow_nan=False)
    assert "NaN" not in text
    assert data["values"][0]["total"]["rmse"] is None and data["values"][0]["share"] is None
    assert data["values"][1]["router"]["margins"] == [1e-4]
    assert data["emulated"] is True


def test_without_a_divergence_there_is_no_first() -> None:
    data = alignment_to_json(an_alignment(a_value(0, "a")))
    assert (data["first"], data["differs"]) == (None, False)
