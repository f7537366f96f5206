"""Every command and option that a page names is one: in its blocks, tables and sentences.

That the commands do what their pages say is shown by the tests of the pages that run them.
"""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest
import tomllib

from glmc.cli.commands import ROWS
from glmc.cli.main import main as glmc
from glmc_runtime.cli import main as glmc_runtime
from glmc_runtime.cli.commands import COMMANDS
from tests.docs.markdown import ROOT, blocks, markdown_files, prose, section

PROGRAMS = {"glmc": glmc, "glmc-runtime": glmc_runtime}
_SPAN = re.compile(r"`([^`]+)`")
_FLAG = re.compile(r"--[a-z][a-z0-9-]*")
# A line of a block that is a command, whether or not it has a prompt; variables may come first.
_LINE = re.compile(
    r"^(?:\$ )?((?:[A-Z_]+=\S+ )*(?:glmc|glmc-runtime|pip install|python -m|make|pytest) .*)$"
)


def commands(path: Path) -> Iterator[str]:
    """What a page shows as a command, or as an option by itself."""
    text = "\n".join(line for _, line in prose(path))
    yield from (" ".join(span.split()) for span in _SPAN.findall(text))
    for block in blocks(path, "console", "bash", "text"):
        for line in block.lines:
            if found := _LINE.match(line):
                yield found[1].partition("  #")[0]


@cache
def flags(program: str, command: str | None = None) -> frozenset[str]:
    """The options that a command's help names."""
    stream = io.StringIO()
    with redirect_stdout(stream), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        try:
            PROGRAMS[program]([*filter(None, [command]), "--help"])
        except SystemExit as ended:  # argparse's way
            assert not ended.code
    return frozenset(_FLAG.findall(stream.getvalue()))


def names(program: str) -> list[str]:
    """The commands of a program."""
    return [row.name for row in ROWS] if program == "glmc" else list(COMMANDS)


def source_of(module: str) -> str:
    """The text of a module, or of the modules of a package that is run."""
    places = [folder.joinpath(*module.split(".")) for folder in (ROOT, ROOT / "runtime")]
    place = next((each for each in places if each.is_dir()), places[0])
    files = sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file.is_file())


def has_option(module: str, flag: str) -> bool:
    """Whether a module declares an option, by its name or as a parameter of typer."""
    parameter = flag.removeprefix("--").replace("-", "_")
    declared = rf"""["/]{flag}["/]|^ +{parameter}: Annotated"""
    return re.search(declared, source_of(module), re.MULTILINE) is not None


def extras(requirement: str) -> bool:
    """Whether the runtime's project has all extras of ``./runtime[one,two]``."""
    project = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text())["project"]
    asked = requirement.partition("[")[2].rstrip("]").split(",")
    return set(filter(None, asked)) <= set(project["optional-dependencies"])


def wrong(command: str, modules: Iterable[str] = ()) -> list[str]:
    """What of a command there is not. An option by itself is one of glmc or of ``modules``."""
    words = shlex.split(command)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    asked = [word.partition("=")[0] for word in words if _FLAG.fullmatch(word.partition("=")[0])]
    match words:
        case [("glmc" | "glmc-runtime") as program, name, *_] if name.islower():
            if name.startswith("-"):
                return [flag for flag in asked if flag not in flags(program)]
            if name not in names(program):
                return [name]
            return [flag for flag in asked if flag not in flags(program, name)]
        case ["pytest", *rest] | ["python", "-m", "pytest", *rest]:
            return [word for word in rest if "/" in word and not (ROOT / word).exists()]
        case ["python", "-m", module, *_]:
            there = bool(source_of(module))
            return [flag for flag in asked if not has_option(module, flag)] if there else [module]
        case ["python", script, *_] if script.startswith("tools/"):
            module = script.removesuffix(".py").replace("/", ".")
            there = bool(source_of(module))
            return [flag for flag in asked if not has_option(module, flag)] if there else [script]
        case ["pip", "install", *rest]:
            return [word for word in rest if word.startswith("./runtime") and not extras(word)]
        case ["make", target, *_]:
            recipe = re.compile(rf"^{re.escape(target)}:", re.MULTILINE)
            return [] if recipe.search((ROOT / "Makefile").read_text()) else [target]
        case [word] if _FLAG.fullmatch(word):
            ours = any(word in flags(of, name) for of in PROGRAMS for name in (None, *names(of)))
            return [] if ours or any(has_option(module, word) for module in modules) else [word]
    return []


def options_of_engines(path: Path) -> set[str]:
    """Options of vLLM and SGLang in the table of the page on them, which test_engines.py holds
    against the adapters."""
    table = section(path, "Limits") if path.name == "engines.md" else ""
    return set(re.findall(r"`(--[\w-]+)`", table))


@pytest.mark.parametrize(
    "path", markdown_files(), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_commands_and_options_of_the_page_are_there(path: Path) -> None:
    shown = [text for text in commands(path) if text not in options_of_engines(path)]
    modules = {found[1] for text in shown if (found := re.search(r"python -m ([a-z][\w.]+)", text))}
    assert {text: wrong(text, modules) for text in shown if wrong(text, modules)} == {}


def test_what_is_not_there_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`glmc\ncompil x` and `--dtyp`, `--dtype`\n```console\n$ glmc run A --nope  # --this\n"
        "A=1 python -m bench.cpu.decode --peers x --nope\n$ make nothing\n```\n"
    )
    assert [wrong(text) for text in commands(page)] == [
        ["compil"],
        ["--dtyp"],
        [],
        ["--nope"],
        ["--nope"],
        ["nothing"],
    ]
    assert wrong("pip install './runtime[text,nothing]'") == ["./runtime[text,nothing]"]
    assert wrong("python -m bench.gone") == ["bench.gone"]
    assert wrong("python tools/train_tiny.py moe --seeds 3") == ["--seeds"]
    assert wrong("python tools/gone.py") == ["tools/gone.py"]
    assert wrong("pytest tests/gone.py") == ["tests/gone.py"]
    assert wrong("--against") == ["--against"] != wrong("--against", ["tools.plan_replay"])
