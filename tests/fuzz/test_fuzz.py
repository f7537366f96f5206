"""A damaged artifact is refused with a code or answers as before; nothing crashes or hangs.

Other answers come only from an artifact whose hashes were put right.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fuzz.__main__ import TARGETS, fuzz, made, summary
from tests.fuzz.damage import HOSTILE, apply
from tests.fuzz.judge import FAULTS, Outcome, Verdict, judge

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("shared_captures")]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("whole"), "cpu")


@pytest.fixture(scope="module")
def sample(artifact: Path) -> list[Verdict]:
    return fuzz(artifact, "cpu", range(60), jobs=1)


def test_a_sample(sample: list[Verdict]) -> None:
    assert [each for each in sample if each.outcome in FAULTS] == []
    assert sum(each.outcome is Outcome.REFUSED for each in sample) > 20


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_two_thousand_cases(target: str, tmp_path: Path) -> None:
    found = fuzz(made(tmp_path, target), target, range(2000))
    print(f"{target}: {summary(found)}")
    assert [each for each in found if each.outcome in FAULTS] == []


def test_the_same_seed_does_the_same_damage(artifact: Path, tmp_path: Path) -> None:
    for number in range(12):
        copies = [Path(shutil.copytree(artifact, tmp_path / f"{number}.{i}")) for i in (0, 1)]
        first, second = (apply(copy, f"cpu:{number}") for copy in copies)
        assert first == second


@pytest.mark.parametrize("error", [AttributeError("x"), MemoryError()])
def test_a_bare_exception_is_a_fault(
    error: Exception, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("glmc_runtime.load", broken)
    assert judge(artifact, "cpu:0", []).outcome is Outcome.EXCEPTION


def test_other_answers_are_a_fault_without_right_hashes(
    artifact: Path, sample: list[Verdict]
) -> None:
    loads = next(each for each in sample if each.outcome is Outcome.SAME)
    assert judge(artifact, loads.name, ["other"]).outcome in (Outcome.SILENT, Outcome.OTHER)
    assert None in HOSTILE
