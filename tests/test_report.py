"""The report: eager operations by either road of capture, and calls told apart by owner."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from torch.fx import Graph

from glmc.artifact.report_form import EvaluatedForm, PassForm, PhaseForm, ReportForm
from glmc.artifact.times import Times, times_of, with_times, without_times
from glmc.compiler import front_end
from glmc.config import CompileOptions
from glmc.job import resolve
from glmc.pipeline.records import PassRecord
from glmc.presets.catalog import load_config
from glmc.report import Report, _pass, eager_operations, phase_report
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.plan import Call, PhasePlan, Segment
from tests.support.checkpoints import drawn_checkpoint, tiny_file
from tests.support.models import captured, tiny_config

pytestmark = pytest.mark.usefixtures("shared_captures")


# Layers of experts alone are a dense layer's attention and more, and are traced as one.
@pytest.mark.long
@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        pytest.param("glm-4-9b-0414", {}, marks=pytest.mark.slow),
        ("glm-4.7", {"num_hidden_layers": 2, "first_k_dense_replace": 0}),
    ],
)
def test_both_roads_of_capture_report_the_same_eager_operations(
    preset: str, changes: dict[str, int], tmp_path: Path
) -> None:
    drawn_checkpoint(tmp_path / "model", tiny_file(preset, **changes))
    source = load_config(tmp_path / "model")
    counts = [
        front_end(resolve(source, CompileOptions(dtype="float32", marked=marked))).eager
        for marked in (False, True)
    ]
    assert counts[0] == counts[1]
    assert counts[0]["total"] > 50


def test_views_are_no_operations() -> None:
    program = captured(tiny_config("glm"))
    counts = eager_operations(program.graph)
    assert set(counts["by_layer"]) == {"outside", "0", "1"}
    assert counts["by_layer"]["0"] == counts["by_layer"]["1"]
    assert counts["total"] == sum(counts["by_layer"].values())
    assert eager_operations(Graph()) == {"by_layer": {}, "total": 0}


def call(function: str, layer: int | None) -> Call:
    return Call(function, {}, (), False, "node", "op", layer, "module")


def test_linear_layers_count_as_the_vendors_and_other_helpers_do_not() -> None:
    calls = (
        call("kunlun_ops.rmsnorm", 0),
        call("xspeedgate_ops.any", 0),
        call("aten.linear", 0),
        call("aten.add", 0),
        call("cpu.linear", None),
    )
    plan = PhasePlan(
        "decode", (), (), calls, (Segment(0, 4, True),), 0, Extent.of(sequences=64, constant=1)
    )
    found = phase_report(plan, CompileOptions())
    assert found["vendor_calls_by_layer"] == {"0": 3}
    assert found["helper_calls_by_layer"] == {"0": 1, "outside": 1}
    assert (found["calls"], found["segments"], found["captured_segments"]) == (5, 1, 1)
    assert found["arena_bytes"]["1"] == 65


def test_a_report_keeps_its_times() -> None:
    report = Report({}, {}, (), {}, {}, {}, (), {"capture": 1.0})
    assert report.timed("write", 2.0).seconds == {"capture": 1.0, "write": 2.0}
    assert replace(report).to_json()["seconds"] == {"capture": 1.0}


def test_a_report_and_its_times_are_two_halves_of_it() -> None:
    row = _pass(PassRecord("gate", "bitwise", 0.25, 5, 4, (), (), evaluation_seconds=0.125))
    whole = Report({}, {}, (row,), {}, {}, {}, (), {"capture": 1.0}).to_json()
    stored = without_times(whole)
    assert "seconds" not in json.dumps(stored)
    assert with_times(stored, times_of(whole)) == {**whole, "passes": [row]}
    (unknown,) = with_times(stored, Times())["passes"]
    assert unknown["seconds"] is None and unknown["evaluated"]["seconds"] is None


def test_the_form_that_reports_are_read_in_is_that_of_the_reports() -> None:
    plan = PhasePlan("decode", (), (), (), (), 0, Extent(constant=1))
    one = _pass(PassRecord("gate", "bitwise", 0.1, 5, 4, (), ()))
    report = without_times(Report({}, {}, (one,), {}, {}, {}, (), {}).to_json())
    (stored,) = report["passes"]
    for found, form in (
        ({**stored, "verdict": ""}, PassForm),
        (stored["evaluated"], EvaluatedForm),
        (phase_report(plan, CompileOptions()), PhaseForm),
        (report, ReportForm),
    ):
        assert set(found) == {field.name for field in fields(form)}
