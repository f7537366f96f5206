"""docs/engines.md names what the adapters have."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from glmc_engines.core.counters import HELP
from glmc_engines.sglang.requests import ARCHITECTURES
from tests.docs.markdown import ROOT, section, table_rows

PAGE = ROOT / "docs" / "engines.md"
ADAPTERS = ROOT / "runtime" / "glmc_engines"


def constant(file: Path, name: str) -> ast.expr:
    """The value of a constant, whose module can't be imported without its engine."""
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return statement.value
    raise LookupError(f"{file} has no {name}")


def test_the_metrics_are_those_of_both_adapters() -> None:
    written = {f"glmc_{name}" + "_total" * (name != "serves") for name in HELP}
    rows = table_rows(section(PAGE, "Metrics"))
    assert {row[0].strip("`") for row in rows} == written


def test_the_architectures_are_there() -> None:
    tree = ast.parse((ADAPTERS / "vllm" / "models.py").read_text(encoding="utf-8"))
    classes = {each.name for each in tree.body if isinstance(each, ast.ClassDef)}
    named = set(re.findall(r"`(\w+ForCausalLM)`", PAGE.read_text(encoding="utf-8")))
    assert named == ARCHITECTURES
    assert named <= classes


def test_the_versions_are_those_that_make_installs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = section(PAGE, "Install")
    for variable, name in (("VLLM", "vLLM"), ("SGLANG", "SGLang")):
        version = re.search(rf"^{variable} := (\S+)$", makefile, re.MULTILINE)
        assert version is not None
        assert f"{name} {version[1]}" in text
