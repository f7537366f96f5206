"""What a shell completes, and how it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc.cli.main import main


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "expected", "others"),
    [
        ("glmc co", ("compile",), ("run",)),
        ("glmc compile glm-4.", ("glm-4.5-air", "glm-4.7"), ("glm-z1-9b",)),
        ("glmc compile mod", ("models/",), ()),
        ("glmc bisect x --target c", ("cpu", "cuda"), ("xpu",)),
        ("glmc fit x --dtype b", ("bfloat16",), ("float16",)),
        ("glmc compile x --abi-profile P", ("P-A", "P-C"), ()),
        ("glmc compile x --passes-off moe", ("moe_gate", "moe_ffn"), ("rope",)),
        ("glmc compile x --dump-after spec", ("specialise",), ()),
        ("glmc inspect x --why-not ro", ("rope",), ()),
        ("glmc inspect x --phase d", ("decode",), ()),
        ("glmc chat x --sys", ("--system",), ("--seed",)),
        ("glmc compile x --verb", ("--verbose",), ()),
    ],
)
def test_names_are_completed(
    shell: str,
    line: str,
    expected: tuple[str, ...],
    others: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "_GLMC_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        main([])
    captured = capsys.readouterr()
    assert (stop.value.code, captured.err) == (0, "")
    offered = captured.out.replace('"', " ").replace("\t", " ").split()
    assert set(expected) <= set(offered) and not set(others) & set(offered)


def test_the_shell_is_told_how_to_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for shell in ("bash", "zsh", "fish"):
        monkeypatch.setattr("shellingham.detect_shell", lambda name=shell: (name, name))
        with pytest.raises(SystemExit) as stop:
            main(["--show-completion"])
        assert not stop.value.code
        assert f"_GLMC_COMPLETE=complete_{shell}" in capsys.readouterr().out
