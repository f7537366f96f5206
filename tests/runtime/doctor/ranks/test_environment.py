"""Variables that break collectives are found; those of a table are asked for."""

from __future__ import annotations

import pytest

from glmc_runtime.doctor.ranks.environment import environment, switches
from glmc_runtime.doctor.ranks.facts import VARIABLES
from glmc_runtime.format.collectives import default_table

TABLE = default_table("xpu", 2)
SWITCHES = {"BKCL_ENABLE_TREE": "1", "BKCL_MULTI_TREE_THRESHOLD": "2097152"}
GOOD = {"BKCL_CHECK_AW": "0", "BKCL_FORCE_SYNC": "1"}


@pytest.mark.parametrize("target", ["", "cpu", "xpu"])
def test_a_variable_with_which_events_spin_fails_anywhere(target: str) -> None:
    found = environment({**GOOD, "XPU_EVENT_KL3_ENABLE": "1"}, target)
    assert found.verdict == "FAIL"
    assert "XPU_EVENT_KL3_ENABLE is '1'" in found.lines[0] and "unset" in found.lines[1]


@pytest.mark.parametrize("value", ["0", ""])
def test_other_values_of_it_are_no_fault(value: str) -> None:
    assert environment({**GOOD, "XPU_EVENT_KL3_ENABLE": value}, "xpu").verdict == "pass"


def test_variables_of_kunlun_are_remarks_there_and_nothing_elsewhere() -> None:
    found = environment({"BKCL_CHECK_AW": "false"}, "xpu")
    assert found.verdict == "warning"
    assert [line.split()[0] for line in found.lines[::2]] == ["BKCL_CHECK_AW", "BKCL_FORCE_SYNC"]
    assert "is 'false'" in found.lines[0] and "is not set" in found.lines[2]
    assert environment({}, "cpu").verdict == "pass"


def test_every_fact_has_a_source_and_a_remedy() -> None:
    assert all(row.source and row.remedy and row.why for row in VARIABLES)
    assert all(row.wrong or row.wanted for row in VARIABLES)


def test_switches_of_the_table_pass_when_set_and_fail_when_not() -> None:
    assert switches(SWITCHES, "xpu", TABLE, 2, "bfloat16").verdict == "pass"
    found = switches({"BKCL_ENABLE_TREE": "0"}, "xpu", TABLE, 2, "bfloat16")
    assert found.verdict == "FAIL"
    assert found.lines[1:] == (
        "  export BKCL_ENABLE_TREE=1  (it is '0')",
        "  export BKCL_MULTI_TREE_THRESHOLD=2097152",
    )
    assert "given, not measured" in found.lines[0]


def test_a_table_of_another_group_fails() -> None:
    found = switches(SWITCHES, "xpu", TABLE, 4, "bfloat16")
    assert found.verdict == "FAIL" and found.values == {"group": "4 ranks, one-host, bfloat16"}


def test_where_bkcl_does_not_run_there_is_nothing_to_set() -> None:
    assert switches({}, "cpu", TABLE, 2, "bfloat16").verdict == "not here"
    assert switches({}, "xpu", None, 2, "bfloat16").verdict == "not here"
