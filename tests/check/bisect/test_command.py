"""``glmc bisect`` as a command: status, file and words."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc.check.bisect import bisect as bisection
from glmc.check.bisect.finding import BisectResult
from glmc.check.bisect.steps import Step, Tell
from glmc.cli.main import main

FOUND = BisectResult(
    "moe_gate",
    "It is off.",
    f"{bisection.MARKER}\n",
    "model.layers.1.mlp.gate#gather",
    "model.layers.1.mlp.gate#mul",
    1,
    "modeling_glm4_moe.py:305 forward",
    26,
)


def test_a_finding_is_a_paragraph_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bisection, "bisect", lambda *given, **named: FOUND)
    path = tmp_path / "repro.py"
    for _ in range(2):  # its own file is written again
        assert main(["bisect", "glm-4.7", "--target", "xpu", "-o", str(path)]) == 1
    assert path.read_text() == FOUND.repro
    said = " ".join(capsys.readouterr().out.split())
    for part in ("moe_gate", "model.layers.1.mlp.gate#gather (layer 1)", "26 nodes", ":305"):
        assert part in said


def test_a_file_of_somebody_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "repro.py"
    path.write_text("mine")
    assert main(["bisect", "glm-4.7", "-o", str(path)]) == 2
    assert path.read_text() == "mine"
    assert "GLMC-1001" in capsys.readouterr().err


def test_nothing_wrong_is_status_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def right(source: object, options: object, tell: Tell, *, skip_proved: bool) -> None:
        tell(Step(1, 9, "float32", "clean"), bisection.PROVED if skip_proved else "bitwise")

    monkeypatch.setattr(bisection, "bisect", right)
    assert main(["bisect", "glm-4.7", "-o", str(tmp_path / "repro.py")]) == 0
    printed = capsys.readouterr()
    assert "Nothing is wrong" in printed.out
    assert "step 1 of 9  float32   clean" in printed.err
    assert "1 step was proved by --verify before; --again" in printed.err
    assert main(["bisect", "glm-4.7", "-o", str(tmp_path / "repro.py"), "--again"]) == 0
    assert "before" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["missing/repro.py", "."])
def test_an_output_that_cannot_be_is_refused_before_the_search(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bisection, "bisect", lambda *given, **named: pytest.fail("searched"))
    assert main(["bisect", "glm-4.7", "-o", str(tmp_path / where)]) == 2
