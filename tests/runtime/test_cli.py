"""The command line: output, errors without tracebacks, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmc_runtime.cli import main
from glmc_runtime.errors import ArtifactError
from tests.runtime.toy import reference_greedy

IDS = ["--token-ids", "3,14,15", "--ignore-eos"]


def test_json(toy_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(toy_path), *IDS, "--max-new-tokens", "5", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["emulated"] is False
    assert result["completions"][0]["tokens"] == reference_greedy([3, 14, 15], 5)
    assert result["completions"][0]["finish_reason"] == "length"
    assert result["statistics"]["finished"] == {"length": 1}


def test_a_stream_of_ids_without_a_tokenizer(
    toy_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(toy_path), *IDS, "--max-new-tokens", "3", "--statistics"]) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == [str(token) for token in reference_greedy([3, 14, 15], 3)]
    assert "3 tokens in" in captured.err
    assert "padding" in captured.err


def test_several_prompts(toy_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", str(toy_path), *IDS, "--token-ids", "1", "--max-new-tokens", "2"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "--- prompt 0 (length)"
    assert lines[3].split() == [str(token) for token in reference_greedy([1], 2)]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "GLMC-2004"),
        (["--token-ids", "1,x"], "GLMC-2004"),
        (["--token-ids", "999"], "GLMC-2004"),
        (["--prompt", "text"], "GLMC-2004"),
        (["--token-ids", "1", "--temperature", "-1"], "GLMC-2004"),
        (["--token-ids", "1", "--kv-blocks", "1"], "GLMC-2005"),
        (["--token-ids", "1", "--kv-blocks", "3"], "GLMC-2005"),
    ],
)
def test_errors_are_text_and_an_exit_status(
    toy_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: str
) -> None:
    assert main(["run", str(toy_path), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"[{code}]")
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        main(["run", str(tmp_path / "none"), "--token-ids", "1", "--debug"])
