"""Numbers as text, and what is said before any table."""

from __future__ import annotations

from dataclasses import replace

from glmc.observe.timeline.diff import diff
from glmc.observe.timeline.steps import select
from glmc.observe.timeline.totals import totals
from glmc.observe.timeline.words import (
    EMULATED,
    INTERPRETED,
    diff_lines,
    head_lines,
    one_lines,
    share,
    short,
    signed_us,
    us,
)
from tests.observe.timeline.sample import kernel, layered, timeline


def test_numbers() -> None:
    assert us(2486.66) == "2,486.7" and us(None) == "-"
    assert signed_us(1.25) == "+1.2" and signed_us(-3) == "-3.0" and signed_us(None) == "-"
    assert share(1, 4) == "25%" and share(None, 4) == "-" and share(1, 0) == "-"


def test_a_long_name_is_cut() -> None:
    assert short("void gemm") == "gemm"
    assert len(short("void " + "x" * 300)) == 72 and short("x" * 300).endswith("...")


def test_what_is_to_be_known_comes_first() -> None:
    made = timeline(
        kernel("a", 0, 5),
        replace(kernel("b", 0, 4), lane="device 1 stream 7"),
        emulated=True,
        interpreted=True,
        tried=False,
        remarks=("a remark",),
        attribution="exact",
        layers="by node",
        model="glm-x",
        target="xpu",
        dtype="float32",
        device="cpu",
    )
    assert list(head_lines(made, "A")) == [
        "A  a: sample, model glm-x for xpu, float32, on cpu",
        f"A  note: {EMULATED}",
        f"A  note: {INTERPRETED}",
        "A  note: the reader of this kind of file (sample) is not tried on real files",
        "A  note: a remark",
        "A  nodes: exact",
        "A  layers: by node",
        "A  note: totals are of device 0 alone, not of device 1",
    ]
    lines = one_lines(made, totals(made, select(made, None, None)))
    assert lines[-2] == "steps: decode of 1 sequence, 1 token: one step"
    assert lines[-1] == "device 0 (emulated): 1 events a step, launched call by call"


def test_both_sides_say_which_steps_count() -> None:
    a, b = layered(3, steps=8), layered(3, label="b")
    lines = diff_lines(a, b, diff(a, b, None, None))
    assert lines[-2].startswith("steps of A: decode of 1 sequence, 1 token: median step of 6")
    assert lines[-1].endswith(
        "first 1 left out as warm-up; they took 1,000.0 to 1,000.0 us, tables are of --steps 1:2"
    )
