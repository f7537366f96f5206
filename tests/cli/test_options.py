"""Options of ``glmc`` that the commands read themselves, and what its output can do to it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glmc.cli.commands import ROWS
from glmc.cli.compile_command import default_output
from glmc.cli.main import main
from glmc_runtime.cli import main as runtime_main
from glmc_runtime.cli.commands import COMMANDS as RUNTIME_COMMANDS
from tests.support.command import ROOT, command_of, require_refusal
from tests.support.forked import in_a_fork


def test_the_artifact_is_named_like_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some-model").mkdir()
    monkeypatch.chdir(tmp_path / "some-model")
    assert default_output("glm-4.6", "xpu") == Path("glm-4.6.xpu.glmc")
    assert default_output("..", "cpu") == Path(f"{tmp_path.name}.cpu.glmc")
    assert default_output(".", "cpu") == Path("some-model.cpu.glmc")
    assert default_output("/", "cpu") == Path("model.cpu.glmc")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--passes-off", "rms-norm"), ("--passes-off", "rms_norm, rope")),
        (("--passes-off", "silu_mul", "--passes-off", "clean"), ("can't be switched off",)),
        (("--passes-on", "nowhere"), ("--passes-on", "no pass 'nowhere'")),
        (("--pipeline", "nowhere.yaml"), ("nowhere.yaml", "can't be read")),
        (("--target", "nowhere"), ("no target 'nowhere'", "cpu, cuda, xpu")),
    ],
)
def test_what_runs_is_chosen_among_what_there_is(
    arguments: tuple[str, ...], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = command_of(capsys)("compile", "models/tiny-dense", *arguments)
    require_refusal(outcome, "GLMC-1001", *words)


def test_a_full_disk_behind_the_output_is_an_error_with_a_code() -> None:
    with open("/dev/full", "w") as full:
        status, err = in_a_fork(lambda: main(["presets"]), full.fileno())
    assert status == 1
    assert err.startswith("[GLMC-2009]")
    assert "Traceback" not in err


# A command that imports nothing, in the real program.
PRINTED = """
import sys
from glmc.cli.commands import Row
from glmc.cli.main import main
def printed():
    print("a line")
Row.load = lambda row: printed
sys.exit(main(["presets"]))
"""


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """Nothing is said after ``main`` either, which shows in a process of its own alone."""
    reader, writer = os.pipe()
    os.close(reader)
    assert in_a_fork(lambda: main(["presets", "--json"]), writer) == (141, "")
    command = [sys.executable, "-c", PRINTED]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_path_too_long_is_an_error_with_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("compile", "inspect"):
        done = command_of(capsys)(command, "a" * 5000)
        assert "[GLMC-" in done.err and "Traceback" not in done.err
        assert done.status in (1, 2)


def test_mistakes_name_the_program_that_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    for command, program in ((runtime_main, "glmc-runtime"), (main, "glmc")):
        assert command(["run", "artifact", "--nothing"]) == 2
        assert f"see '{program} run --help'" in capsys.readouterr().err


def test_options_without_a_command_bring_the_list_of_commands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command, names in ((main, [row.name for row in ROWS]), (runtime_main, RUNTIME_COMMANDS)):
        assert command(["-v"]) == 2
        said = capsys.readouterr().err
        assert "no command was named" in said and ", ".join(names) in said


@pytest.mark.parametrize("name", RUNTIME_COMMANDS)
def test_a_command_of_the_runtime_has_the_same_options(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the runtime is installed, nothing that ``glmc run`` can do is missing. ``fit``
    and ``record`` take models too where there is a compiler."""
    monkeypatch.setenv("COLUMNS", "160")

    def options(command: Callable[[list[str]], int]) -> set[str]:
        assert command([name, "--help"]) == 0
        text = capsys.readouterr().out
        words = " ".join(text.replace("│", " ").split())
        for option in RUNTIME_COMMANDS[name].options:
            assert option.help.rstrip(".") in words, option.flag
        return set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", text))

    ours = options(main)
    assert "--debug" in ours
    if name not in ("fit", "tune-collectives"):
        assert {"--device", "--emulate", "--no-emulate"} <= ours
    of_models = {"fit": {"--target", "--dtype"}, "record": {"--dtype", "--parameters"}}
    of_models["run"] = {"--device-file"}  # descriptions of devices are the compiler's
    assert ours - options(runtime_main) == of_models.get(name, set())
    assert options(runtime_main) <= ours
