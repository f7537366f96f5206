"""Cards: groups of four, the vendor's table of links, and an option of the driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc_runtime.doctor.ranks.cards import cards, link_table, quad_problem, taken_cards


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with device files and a tool that shows links."""
    tool = tmp_path / "bin" / "xpu_smi"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\n[ "$1 $2" = "xpulink -s" ] && echo "dev 0 port 3 active"\n')
    tool.chmod(0o755)
    for number in range(8):
        (tmp_path / f"xpu{number}").touch()
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    return tmp_path


def test_without_cards_nothing_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cards({}, 2, 5.0, devices=str(tmp_path / "xpu*")).verdict == "not here"


@pytest.mark.parametrize(
    ("visible", "verdict"),
    [("0,1,2,3", "pass"), ("7,6,5,4", "pass"), ("2,3,4,5", "FAIL"), ("0,1", "FAIL")],
)
def test_four_cards_are_of_one_half(machine: Path, visible: str, verdict: str) -> None:
    option = machine / "PcieLink"
    option.write_text("1\n")
    variables = {"XPU_VISIBLE_DEVICES": visible}
    found = cards(variables, 4, 5.0, devices=f"{machine}/xpu[0-9]", options=str(option))
    assert found.verdict == verdict
    if len(visible) > 3:
        assert found.lines[-1] == "dev 0 port 3 active"


@pytest.mark.parametrize("state", ["0", None])
def test_the_drivers_option_is_a_remark(machine: Path, state: str | None) -> None:
    option = machine / "PcieLink"
    if state is not None:
        option.write_text(state)
    found = cards({}, 2, 5.0, devices=f"{machine}/xpu[0-9]", options=str(option))
    assert found.verdict == "warning"
    shown = "the driver does not show it" if state is None else f"{option} is 0"
    assert f"PcieLink=1: {shown}" in found.lines[1]


def test_groups_of_other_sizes_are_free() -> None:
    assert not quad_problem([2, 3]) and not quad_problem(list(range(8)))
    assert "0-3 or 4-7" in quad_problem([0, 1, 2, 4])


def test_the_first_variable_that_is_set_says_which_cards() -> None:
    both = {"CUDA_VISIBLE_DEVICES": "6,7", "XPU_VISIBLE_DEVICES": "4,5"}
    assert taken_cards(both, 2) == [4, 5]
    assert taken_cards({"CUDA_VISIBLE_DEVICES": "6,7"}, 1) == [6]
    assert taken_cards({"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2"}, 2) is None
    assert taken_cards({}, 3) == [0, 1, 2]


def test_a_tool_that_hangs_is_ended(tmp_path: Path) -> None:
    tool = tmp_path / "xpu_smi"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    assert link_table(str(tool), 0.5).endswith("timed out after 0.5 s")
