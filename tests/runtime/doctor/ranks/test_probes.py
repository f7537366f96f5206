"""What the answers of ranks mean: wrong sums, and a refusal that one switch takes away."""

from __future__ import annotations

import re

from glmc_runtime.doctor.ranks.probes import group, window
from glmc_runtime.doctor.ranks.result import Result

ACTING = "tests.runtime.command.acting"


def test_a_wrong_sum_is_told_with_its_rank_and_size() -> None:
    found = group(2, "gloo", 60.0, f"{ACTING}:wrong_sums")
    assert (found.verdict, found.lines) == (
        "FAIL",
        ("rank 1: the sum of 4096 elements is wrong",),
    )


def test_a_refused_address_window_is_tried_without_the_check() -> None:
    task = f"{ACTING}:address_window"
    formed = group(2, "nccl", 60.0, task)
    assert formed.verdict == "FAIL"
    assert formed.lines[-1] == "  RuntimeError: [BKCL] addr_window check failed"
    found = window(2, "nccl", 60.0, formed, task)
    assert found.verdict == "FAIL" and found.values == {"forms_without_check": True}
    assert "forms with BKCL_CHECK_AW=0" in found.lines[0]


def test_a_switch_that_does_not_help_is_said_not_to() -> None:
    formed = Result("group", "FAIL", ("rank 0 ended with status 1", "  addr_window"))
    found = window(2, "nccl", 60.0, formed, f"{ACTING}:die")
    assert found.values == {"forms_without_check": False}
    assert re.search("fails with BKCL_CHECK_AW=0 too: rank . was ended by SIGKILL", found.lines[0])


def test_other_failures_and_other_backends_have_no_window() -> None:
    other = Result("group", "FAIL", ("timed out after 60 s",))
    assert window(2, "nccl", 60.0, other).verdict == "not here"
    assert window(2, "gloo", 60.0, other).verdict == "not here"
    assert window(2, "nccl", 60.0, Result("group", "pass", ("formed",))).verdict == "pass"
