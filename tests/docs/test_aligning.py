"""docs/aligning.md: every command runs as it stands and says what the page shows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest

from glmc.check.align.op_test_text import RUN
from tests.docs.markdown import ROOT
from tests.docs.test_readme import PROGRAMS, lacking, run_here, shown
from tests.observe.page.test_render import embedded

pytestmark = pytest.mark.long
PAGE = ROOT / "docs" / "aligning.md"


def test_every_command_runs_and_says_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("models", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "out").mkdir()
    said = {}
    with chdir(tmp_path):
        for each in shown(PAGE):
            program, *words = shlex.split(each.command)
            if program in PROGRAMS:
                status, output = run_here(each.command)
                assert status == 0, f"{each.command}\n{output}"
                assert lacking(each.output, output) == [], output
                said[each.command] = output
            else:
                subprocess.run([program, *words], check=True)
    (last,) = (output for command, output in said.items() if command.endswith("--exit-code"))
    assert "No divergence: of 174 values 174 are within what is allowed." in last
    (own,) = (output for command, output in said.items() if "port.html --compile-page" in command)
    assert "No divergence: of 211 values 211 are within what is allowed." in own
    (first,) = (output for command, output in said.items() if "--csv out/port.csv" in command)
    assert "model.layers.1.mlp.gate#gather[0] (moe_gate)" in " ".join(first.split())
    (whose,) = (output for command, output in said.items() if "--test out/" in command)
    words = (
        r"Its own error, on operands as expected, is at most (\S+) in an element; \S+ is allowed"
    )
    (largest,) = re.findall(words, " ".join(whose.split()))
    quoted = " ".join(PAGE.read_text().replace("\n> ", " ").split())
    assert f"as expected, is at most {largest} in an element;" in quoted
    (way,) = re.findall(r"^(python -m pytest .*) out/test_op.py$", PAGE.read_text(), re.MULTILINE)
    assert way == RUN
    done = subprocess.run(
        [sys.executable, *way.split()[1:], "out/test_op.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1 and "test_moe_gate" in done.stdout, done.stdout
    assert (tmp_path / "out" / "port.html").stat().st_size > 10_000
    assert (tmp_path / "out" / "timeline.html").stat().st_size > 10_000
    data = embedded((tmp_path / "out" / "compile.html").read_text(encoding="utf-8"))
    assert data["aligned"]["page"] == "port.html" and data["timed"]["page"] == "timeline.html"
    assert data["aligned"]["nodes"]["model.layers.1.mlp.gate#gather[0]"][0] == "ok"
    for plan in data["plans"]:
        assert all(plan["seconds"]), "each call of both phases was timed"
    for name in ("port.html", "timeline.html"):
        html = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert embedded(html)["compile"] == "compile.html"
