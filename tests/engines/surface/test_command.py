"""The command: its exit status, its table, its JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmc_engines.surface.command import main
from tests.engines.surface.made_up import ENGINE, write

USES = {
    "engine/compat.py": """
from engine.layers import Attention, Norm
try:
    from engine.late import Late
except ImportError:
    Late = None
SURFACE = (Use("engine.choice.run", "function", ("x", "y"), why="called by the test"),)
"""
}
NEWER = ENGINE | {
    "engine/layers/norms.py": "class Other: ...",
    "engine/late.py": "class Late: ...",
    "engine/choice.py": "def run(x, y, z): ...",
}


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The newer release against the older one."""
    write(USES, tmp_path / "adapters")
    write(ENGINE, tmp_path / "older")
    write(NEWER, tmp_path / "newer")
    (tmp_path / "newer" / "engine-2.0.dist-info").mkdir()
    return [
        f"engine@{tmp_path / 'newer'}",
        "--against",
        f"engine@{tmp_path / 'older'}",
        "--adapters",
        str(tmp_path / "adapters"),
    ]


def test_a_release_that_has_what_is_needed(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, older, *rest = words
    assert main([older, *rest]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "missing, not needed  engine.late.Late  late is not in engine",
        "engine of unknown version: 4 names, 3 fit, 1 missing or different but not needed",
    ]
    assert main([older, *rest, "--all"]) == 0
    assert "there                engine.choice.run        (x, y=1)\n" in capsys.readouterr().out


def test_a_release_that_lacks_something(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    assert capsys.readouterr().out.splitlines() == [
        "other signature  engine.choice.run   requires z",
        "missing          engine.layers.Norm  Norm is not in engine.layers",
        "engine 2.0: 4 names, 2 fit, 2 needed but missing or different",
        "",
        "engine.choice.run   signature: +z, y=1 -> y",
        "engine.late.Late    new",
        "engine.layers.Norm  gone: Norm is not in engine.layers",
        "engine of unknown version -> engine 2.0: 3 of these names changed",
    ]


def test_json_has_everything(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["engine"], told["version"], told["against"]) == ("engine", "2.0", "")
    assert [name["name"] for name in told["names"]] == [
        "engine.choice.run",
        "engine.late.Late",
        "engine.layers.Attention",
        "engine.layers.Norm",
    ]
    assert told["names"][0] == {
        "name": "engine.choice.run",
        "state": "other signature",
        "needed": True,
        "kind": "function",
        "home": "engine.choice.run",
        "text": "(x, y, z)",
        "reason": "requires z",
        "why": "called by the test",
    }
    assert {"name": "engine.late.Late", "change": "new"} in told["changes"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["engine=1"], "names no release"),
        (["nobody==1.0"], "no adapter for 'nobody'"),
        ([], "required: RELEASE"),
        (["engine", "--what"], "unrecognized"),
    ],
)
def test_wrong_words(
    words: list[str], wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*wrong, *words[3:]]) == 2
    assert said in capsys.readouterr().err


def test_releases_of_two_engines_are_not_compared(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([words[0], "--against", f"other@{words[0]}", *words[3:]]) == 2
    assert "one engine" in capsys.readouterr().err


def test_a_source_that_can_not_be_parsed(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "newer" / "engine" / "choice.py").write_text("def broken(:")
    assert main(words) == 2
    assert "can't read" in capsys.readouterr().err
