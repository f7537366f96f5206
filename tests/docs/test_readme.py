"""The commands that the README shows are run, and what it shows of their output must be there.

``make`` is run as ``make -n``; of what it would do, glmc's own commands are run here, and the rest
is compared with the Makefile. A checkpoint that is not there is replaced by models/tiny-dense.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from glmc.cli.main import main as glmc
from glmc.presets.catalog import preset_names
from glmc_runtime.cli import main as glmc_runtime
from glmc_runtime.kernels.vendor import say_emulated
from tests.docs.environments import make_environment
from tests.docs.markdown import ROOT, blocks, section, table_rows
from tests.docs.test_numbers import COUNTS, of_report
from tests.support.cases import give_cases

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("shared_captures")]
PAGE = ROOT / "README.md"
PROGRAMS = {"glmc": glmc, "glmc-runtime": glmc_runtime}
INSTALLING = ROOT / "docs" / "installing.md"
SERVING = "Serving with vLLM and SGLang"
_VARYING = (
    (re.compile(r"\d+(\.\d+)? s\b"), "# s"),
    (re.compile(r"peak memory [\d.]+ \w+"), "peak memory #"),
    (re.compile(r"[\u2500-\u257f]"), " "),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True)
class Shown:
    """A command of the page, without a remark after it, and the lines of output below it."""

    command: str
    output: tuple[str, ...]


def shown(page: Path) -> Iterator[Shown]:
    for block in blocks(page, "console", "bash"):
        command, output = "", list[str]()
        for line in (*block.lines, "$ "):
            if line.startswith("$ "):
                if command:
                    yield Shown(command, tuple(output))
                command, output = line[2:].partition("  #")[0].rstrip(), []
            else:
                output.append(line)


ALL = list(shown(PAGE))
RUN = [each for each in ALL if each.command.split()[0] in PROGRAMS or each.command == "make demo"]


def plain(line: str) -> str:
    for pattern, word in _VARYING:
        line = pattern.sub(word, line)
    return line.strip()


def lacking(expected: tuple[str, ...], output: str) -> list[str]:
    """Shown lines that do not come in the output, in their order; '...' stands for any lines."""
    lines = iter([plain(line) for line in output.splitlines()])
    wanted = [plain(line) for line in expected if line.strip() not in ("", "...")]
    return [line for line in wanted if line not in lines]


def dry_run(target: str) -> list[str]:
    """What ``make target`` would execute in a fresh checkout."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    command = ["make", "--no-print-directory", "-n", "-B", target]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def makefile_recipes() -> set[str]:
    """All recipe lines of the Makefile, variables filled in."""
    text = (ROOT / "Makefile").read_text()
    variables = dict(re.findall(r"^(\w+) [?:]?= (.*)$", text, re.MULTILINE))
    variables["MAKE"] = "make"  # of make itself
    recipes = set()
    for rule in re.split(r"\n(?=\S+:)", text):
        variables["@"] = rule.split(":", maxsplit=1)[0]
        for line in re.findall(r"^\t(.*)$", rule, re.MULTILINE):
            filled = ""
            while filled != line:  # what is still a variable then is one of a pattern rule
                filled, line = (
                    line,
                    re.sub(
                        r"\$\((\w+)\)|\$(@)", lambda found: variables[found[1] or found[2]], line
                    ),
                )
            recipes.add(line)
    return recipes


def run_here(command: str) -> tuple[int, str]:
    """Run a command of glmc in this process; a checkpoint that is missing is the tiny one."""
    program, *arguments = shlex.split(command)
    if arguments[0] == "compile":
        there = arguments[1] in preset_names() or Path(arguments[1]).exists()
        arguments[1] = arguments[1] if there else "models/tiny-dense"
    stream = io.StringIO()
    with redirect_stdout(stream), redirect_stderr(stream):
        status = PROGRAMS[Path(program).name](arguments)
    return status, stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are run."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "models").symlink_to(ROOT / "models")
    return folder


@pytest.fixture(scope="module")
def outputs(folder: Path) -> Iterator[dict[str, tuple[int, str]]]:
    """Every command of the page that can run here, in the page's order, each once.

    Proofs take two of their inputs: that they hold on all is for the tests of the proofs.
    """
    done: dict[str, tuple[int, str]] = {}
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.setenv("COLUMNS", "200")
        give_cases(patch, "one token", "all scores equal")
        for command in dict.fromkeys(each.command for each in RUN):
            if command != "make demo":
                done[command] = run_here(command)
                continue
            lines = [line for line in dry_run("demo") if Path(line.split()[0]).name in PROGRAMS]
            results = [run_here(line) for line in lines]
            done[command] = max(r[0] for r in results), "".join(r[1] for r in results)
        yield done


@pytest.mark.parametrize("each", RUN, ids=lambda each: each.command)
def test_the_command_does_what_is_shown(each: Shown, outputs: dict[str, tuple[int, str]]) -> None:
    status, output = outputs[each.command]
    assert status == 0, output
    assert output.strip()
    assert lacking(each.output, output) == [], output


@pytest.mark.usefixtures("outputs")
def test_the_plan_of_the_page_has_the_counts_of_the_page_of_numbers(folder: Path) -> None:
    report = json.loads((folder / "glm-4.6.plan" / "report.json").read_text())
    (row,) = [row for row in COUNTS if row[0] == report["model"]["name"]]
    assert [int(cell) for cell in row[1:]] == of_report(report)


def test_the_python_of_the_page_runs(outputs: dict[str, tuple[int, str]]) -> None:
    (session,) = blocks(PAGE, "python")
    assert printed_by(session.text) in outputs["make demo"][1]


@pytest.mark.usefixtures("outputs")
def test_a_run_says_what_the_page_on_the_command_line_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a process of its own: pytest's handlers would have the notice, which comes once."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    say_emulated.cache_clear()
    page = ROOT / "docs" / "command_line.md"
    (run,) = (each for each in shown(page) if each.command.startswith("glmc run") and each.output)
    status, output = run_here(run.command.partition(" > ")[0])
    assert status == 0, output
    assert lacking(run.output, output) == [], output


@pytest.mark.usefixtures("outputs")
def test_the_python_of_the_page_on_requests_runs() -> None:
    (block,) = blocks(ROOT / "docs" / "requests.md", "python")
    assert printed_by(block.text)


def test_the_python_of_the_page_on_torch_compile_runs() -> None:
    use, explain = (block.text for block in blocks(ROOT / "docs" / "torch_compile.md", "python"))
    eager = "\n".join(line for line in use.splitlines() if "torch.compile" not in line)
    assert eager.count("\n") == use.count("\n") - 2
    assert printed_by(use) == printed_by(eager)
    assert printed_by(explain)


def printed_by(source: str) -> str:
    stream = io.StringIO()
    torch._dynamo.reset()
    with redirect_stdout(stream), redirect_stderr(io.StringIO()):
        exec(compile(source, PAGE.name, "exec"), {})
    assert stream.getvalue().strip()
    return stream.getvalue().strip()


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_does_what_the_makefile_says(target: str) -> None:
    lines = dry_run(target)
    assert set(lines) <= makefile_recipes()
    assert lines[0].endswith(" -m venv .venv")
    assert lines[-1].startswith(".venv/bin/")
    assert any("--constraint constraints.txt" in line for line in lines)


def test_every_command_is_known() -> None:
    """Those of the servers are run by the tests inside the engines."""
    known = {each.command for each in RUN} | {"make demo", "make test"}
    others = [each.command for each in ALL if each.command not in known]
    assert others and all(command in section(PAGE, SERVING) for command in others)
    by_hand = [each.command for each in shown(INSTALLING)]
    # How much is said and when modules are compiled make no other environment.
    recipes = [
        line.replace(" --quiet", "").replace(" --no-compile", "") for line in dry_run("demo")
    ]
    assert by_hand and by_hand == recipes[: len(by_hand)]


def test_the_page_is_two_screens_and_honest() -> None:
    text = PAGE.read_text()
    assert len(text.splitlines()) <= 140
    assert "No Kunlun card was at hand" in text
    states = {row[0]: row[1] for row in table_rows(section(PAGE, "Where we are")) if len(row) == 2}
    assert "emulated" in states["Kunlun, `--target xpu`"]
    assert states["missing"]


def test_the_page_of_the_runtime_shows_what_is_run_here() -> None:
    page = ROOT / "runtime" / "README.md"
    programs = [block.text for block in blocks(PAGE, "python")]
    assert [block.text in programs for block in blocks(page)] == [True]


def test_clean_leaves_nothing_that_a_build_makes(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    ignored = [
        line for line in (ROOT / ".gitignore").read_text().splitlines() if line.endswith("/")
    ]
    folders = [line.replace("*", "some") for line in ignored if line != "__pycache__/"]
    folders += [f"runtime/{name}" for name in ("build/", "dist/", "some.egg-info/")]
    folders.append("swiglu-linear/some.egg-info/")  # of an example that was installed editable
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    make = ["make", "--no-print-directory", "-C", str(tmp_path), "clean"]
    subprocess.run(make, check=True, capture_output=True)
    assert [name for name in folders if (tmp_path / name).exists()] == []


def test_the_runtime_alone_is_installed_as_the_page_says(tmp_path: Path) -> None:
    commands = re.findall(r"`(pip install [^`]+)`", INSTALLING.read_text(encoding="utf-8"))
    assert len(commands) == 2, "the runtime with its text, and what records of tensors need"
    made = shutil.ignore_patterns("build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "runtime", tmp_path / "checkout" / "runtime", ignore=made)
    environment = make_environment(tmp_path / "environment", tmp_path / "checkout")
    for command in commands:
        installed = environment.run(command)
        assert installed.status == 0, installed
    (metadata,) = environment.packages.glob("glmc_runtime-*.dist-info")
    licence = metadata / "licenses" / "LICENSE"
    assert licence.read_text() == (ROOT / "LICENSE").read_text()
    described = (metadata / "METADATA").read_text()
    assert (ROOT / "runtime" / "README.md").read_text() in described
    for extra in re.findall(r"\[(\w+)\]", " ".join(commands)):
        assert f"Provides-Extra: {extra}\n" in described
    assert (environment.folder / "bin" / "glmc-runtime").is_file()
    data = environment.packages / "glmc_runtime"
    assert list(data.glob("kernels/cpu/native/*.c")) and (data / "py.typed").is_file()


def test_presets_of_the_page_exist() -> None:
    for preset in preset_names():
        family = preset.removesuffix("-0414").lower()
        assert any(part in PAGE.read_text().lower() for part in (family, family[: len("glm-z1")]))


def test_lost_output_is_noticed() -> None:
    output = "a  1.5 s\n│ b │ 2 │\nc\n"
    assert lacking(("a 9.7 s", "...", "b   2", "c"), output) == []
    assert lacking(("b 3",), output) == ["b 3"]
    assert lacking(("c", "b 2"), output) == ["b 2"]
