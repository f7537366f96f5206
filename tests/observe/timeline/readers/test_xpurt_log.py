"""Logs of Kunlun's runtime, in the forms that public pages and scripts show."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc.observe.timeline.diff import diff
from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.table import Kind
from tests.observe.timeline.test_totals import of

LOG = """\
INFO engine starts
gtest_fc_fusion<float16>(...) api::kXPU3
[XPURT_PROF] _ZN10xblas_xpu313fc_cdnn_inferIttttffffLi1EEEvPKvS2_ 145000 100000 ns
    gtest_rms_norm
[XPURT_PROF] void kl3_all_reduce<float16> 987654 ns
[ XPURT_PROF ] xpukernel_xpu3::constant<float>: 2000 ns
[XPURT_PROF] half a li
"""


def test_names_durations_and_calls(tmp_path: Path) -> None:
    path = tmp_path / "rank_0.log"
    path.write_text(LOG)
    made = open_timeline(path)
    assert [(event.name, event.duration_us, event.op) for event in made.events] == [
        ("_ZN10xblas_xpu313fc_cdnn_inferIttttffffLi1EEEvPKvS2_", 100, "fc_fusion"),
        ("void kl3_all_reduce<float16>", 987.654, "rms_norm"),
        ("xpukernel_xpu3::constant<float>", 2, "rms_norm"),
    ]
    assert [event.kind for event in made.events] == [Kind.KERNEL, Kind.COLLECTIVE, Kind.COPY]
    assert [op_class(event) for event in made.events] == ["linear", "collective", "copy"]
    assert made.facts.remarks[1] == "1 lines of kernels were not understood"
    assert not made.facts.tried


def test_bubbles_are_not_known(tmp_path: Path) -> None:
    path = tmp_path / "rank_0.log"
    path.write_text(LOG)
    made = open_timeline(path)
    totals = of(made)
    assert totals.bubbles_us is None and totals.bubbles == {}
    assert totals.time_us == pytest.approx(1089.654)
    lever = next(lever for lever in diff(made, made, None, None).levers if lever.name == "bubbles")
    assert lever.a is None and lever.difference_us is None


def test_a_number_of_thousands_of_digits_is_none(tmp_path: Path) -> None:
    path = tmp_path / "rank_0.log"
    path.write_text(f"{LOG}[XPURT_PROF] long {'9' * 5000} ns\n")
    made = open_timeline(path)
    assert len(made.events) == 3
    assert made.facts.remarks[1] == "2 lines of kernels were not understood"
