"""The file of digests, and what is said of plans that differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc.errors import UsageError
from tools.plan_replay.digests import (
    chosen,
    differences,
    other_versions,
    read_digests,
    write_digests,
)
from tools.plan_replay.tree import Plan, PlanName

CPU, XPU = PlanName("small", "cpu", "decode"), PlanName("small", "xpu/P-A", "decode")
LARGE = PlanName("large", "cpu", "decode")
PLANS = {CPU: Plan("a" * 64, 3), XPU: Plan("b" * 64, 4), LARGE: Plan("c" * 64, 5)}


def test_a_line_per_plan_and_back(tmp_path: Path) -> None:
    file = tmp_path / "digests.txt"
    write_digests(PLANS, file)
    assert read_digests(file) == PLANS
    assert file.read_text().splitlines()[1:] == [
        f"large cpu decode 5 {'c' * 64}",
        f"small cpu decode 3 {'a' * 64}",
        f"small xpu/P-A decode 4 {'b' * 64}",
    ]


@pytest.mark.parametrize("line", ["<<<<<<< HEAD", "small cpu decode many abc", ""])
def test_a_line_that_is_none(line: str, tmp_path: Path) -> None:
    file = tmp_path / "digests.txt"
    file.write_text(f"# head\n{line}\n")
    with pytest.raises(UsageError, match=r"digests\.txt:2"):
        read_digests(file)


def test_chosen() -> None:
    assert chosen(PLANS, ["small"], [], all_models=False) == {CPU: PLANS[CPU], XPU: PLANS[XPU]}
    assert chosen(PLANS, [], ["xpu"], all_models=True) == {XPU: PLANS[XPU]}
    assert chosen(PLANS, [], ["xpu/P-A"], all_models=True) == {XPU: PLANS[XPU]}
    assert chosen(PLANS, [], ["xpu/P-B"], all_models=True) == {}


class TestDifferences:
    def test_none(self) -> None:
        assert differences(PLANS, dict(PLANS), "digests.txt") == {}

    def test_another_digest(self) -> None:
        found = differences({**PLANS, XPU: Plan("d" * 64, 6)}, PLANS, "digests.txt")
        assert found == {
            XPU: "small xpu/P-A decode: 4 calls in digests.txt, 6 here; "
            "sha256 bbbbbbbbbbbb, dddddddddddd here"
        }

    def test_a_plan_too_many_or_too_few(self) -> None:
        less = {name: plan for name, plan in PLANS.items() if name != CPU}
        gone = {CPU: "small cpu decode: only there has this plan"}
        assert differences(less, PLANS, "there") == gone
        assert differences(PLANS, less, "there") == {
            CPU: "small cpu decode: there has no such plan"
        }

    def test_a_model_that_does_not_compile_is_never_equal(self) -> None:
        failed = Plan("-", 0, error="[GLMC-1005] lost")
        said = "small cpu decode: does not compile: [GLMC-1005] lost"
        assert differences({CPU: failed}, {CPU: failed}, "there") == {CPU: said}
        (there,) = differences({CPU: PLANS[CPU]}, {CPU: failed}, "there").values()
        assert there == "small cpu decode: does not compile there: [GLMC-1005] lost"


def test_other_versions_are_named(tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text("# head\ntorch==0.1\npyyaml==0.1\n")
    (line,) = other_versions(file)
    assert line.startswith("torch ") and line.endswith("constraints.txt has 0.1")
