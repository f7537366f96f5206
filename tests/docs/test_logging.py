"""docs/logging.md lists the artifacts that there are, its program runs, and no library prints."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest

from glmc_runtime.command.logs import ARTIFACTS, PACKAGES
from tests.docs.markdown import ROOT, blocks, table_rows

PAGE = ROOT / "docs" / "logging.md"
SOURCES = {
    file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8")
    for folder in (ROOT / "glmc", ROOT / "runtime" / "glmc_runtime")
    for file in sorted(folder.rglob("*.py"))
}
# What a command line is made of; of the rest it alone calls the progress of loading.
_COMMANDS = ("glmc/cli/", "glmc_runtime/cli/", "glmc_runtime/command/", "loading/progress.py")


def printing(source: str) -> Iterator[int]:
    """Lines that print or write to a stream of the process."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            yield node.lineno
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr"):
            yield node.lineno


def loggers(source: str) -> set[str]:
    """Names of the loggers that a module asks for."""
    return {
        ast.literal_eval(node.args[0])
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "logging.getLogger"
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }


def test_the_page_lists_every_artifact() -> None:
    named = [row[0].strip("`") for row in table_rows(PAGE.read_text()) if len(row) == 2]
    assert [name for name in named if name in ARTIFACTS and "," not in name][1:] == list(ARTIFACTS)


def test_every_logger_is_one_of_an_artifact_and_every_artifact_has_one() -> None:
    used = set().union(*(loggers(text) for text in SOURCES.values() if "getLogger(" in text))
    used -= set(PACKAGES)
    assert {name.partition(".")[0] for name in used} == set(PACKAGES)
    assert {name.partition(".")[2] for name in used} == set(ARTIFACTS)


def test_no_library_prints() -> None:
    assert list(printing("import sys\nprint(1)\nx = sys.stderr")) == [2, 3]
    found = {
        f"{name}:{line}"
        for name, text in SOURCES.items()
        if not any(part in name for part in _COMMANDS) and ("print(" in text or "sys.std" in text)
        for line in printing(text)
    }
    assert not found


def test_the_program_of_the_page_gets_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (program,) = blocks(PAGE, "python")
    named = [logging.getLogger(name) for name in ("glmc.recompiles", "glmc_runtime")]
    levels = [logger.level for logger in named]
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    with chdir(tmp_path):
        try:
            exec(program.text, {})
            logging.getLogger("glmc.recompiles").info("again")
            logging.getLogger("glmc_runtime.weights").info("loaded")
            logging.getLogger("glmc.passes").info("not asked for")
        finally:
            for handler in logging.getLogger().handlers:
                handler.close()
            for logger, level in zip(named, levels, strict=True):
                logger.setLevel(level)
    lines = (tmp_path / "glmc.log").read_text().splitlines()
    assert [re.sub(r"^\w+:", "", line) for line in lines] == [
        "glmc.recompiles:again",
        "glmc_runtime.weights:loaded",
    ]
