"""docs/writing_a_pass.md: its package is installed, compiled with and tested as the page says."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from glmc.config import CompileOptions
from glmc.passes import gate_up_merge
from glmc.pipeline.selection import selection
from glmc.pipeline.stages import FIXED, PASSES
from tests.docs.markdown import ROOT, blocks, section
from tests.docs.pages import install_page, shown_files
from tests.support.command import SMALL, command_of
from tests.support.traced import conditions, trace

PAGE = ROOT / "docs" / "writing_a_pass.md"
NAME = "swiglu_linear"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_page(PAGE, tmp_path_factory.mktemp("page") / "site")


@pytest.fixture(scope="module")
def modules(package: Path) -> tuple[ModuleType, ModuleType]:
    """The page's pass and its test; an op is registered once in a process, so both stay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(package)
        found = [importlib.import_module(name) for name in (NAME, f"test_{NAME}")]
    return found[0], found[1]


def commands() -> list[list[str]]:
    lines = blocks(PAGE, "console")[0].lines
    return [shlex.split(line.removeprefix("$ ")) for line in lines]


def test_the_page_shows_three_files() -> None:
    assert list(shown_files(PAGE)) == ["pyproject.toml", f"{NAME}.py", f"test_{NAME}.py"]


@pytest.mark.usefixtures("modules", "shared_captures")
def test_the_command_of_the_page_shows_that_the_pass_fires(
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (_, (program, *arguments)) = commands()
    assert program == "glmc"
    output = tmp_path / "artifact"
    dump = ("--dump", tmp_path / "dump", "--dump-after", NAME)
    monkeypatch.syspath_prepend(package)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200")
    outcome = command_of(capsys)(*arguments, *SMALL, *dump, "--output", output)
    assert outcome.status == 0, outcome.err
    row = next(line for line in outcome.out.splitlines() if NAME in line)
    assert [cell.strip() for cell in row.split("│")[1:7]] == [
        NAME,
        "bitwise",
        "148",
        "147",
        "1",
        "-",
    ]
    assert f"pass {NAME} comes from glmc-swiglu-linear 0.1.0" in outcome.out
    assert f"import {NAME}  # " in (tmp_path / "dump" / f"013_fuse_{NAME}.py").read_text()
    report = json.loads((output / "report.json").read_text())
    assert report["options"]["passes_on"] == [NAME]
    assert [one["layers"] for one in report["passes"] if one["name"] == NAME] == [[0]]


def test_the_tests_of_the_page_pass(
    package: Path, modules: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(package)
    monkeypatch.chdir(ROOT)
    tests = {name: made for name, made in vars(modules[1]).items() if name.startswith("test_")}
    assert len(tests) == 2
    for made in tests.values():
        made()


class Mlp(nn.Module):
    """``bias`` of the projection after the activation."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(8, 16, bias=False), nn.Linear(8, 16, bias=False)
        self.down = nn.Linear(16, 8, bias=bias)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.down(silu(self.gate(x)) * self.up(x))


class Observed(Mlp):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        activated = silu(self.gate(x)) * self.up(x)
        return self.down(activated), activated


@pytest.mark.parametrize(
    ("module", "reasons"),
    [
        (Mlp(), []),
        (Mlp(bias=True), ["the projection must have no bias"]),
        (Observed(), ["the activated value is also read elsewhere"]),
    ],
    ids=["fires", "bias", "observed"],
)
def test_the_pass_of_the_page_takes_no_twist(
    module: nn.Module, reasons: list[str], modules: tuple[ModuleType, ModuleType]
) -> None:
    traced = trace(module, torch.randn(2, 3, 8))
    traced.apply(gate_up_merge.PASS)
    x = torch.randn(4, 5, 8)
    before = traced(x)
    result = traced.apply(modules[0].PASS)
    assert (conditions(result), len(result.matches)) == (reasons, 0 if reasons else 1)
    assert all(torch.equal(one, two) for one, two in zip(traced(x), before, strict=True))


def test_the_list_of_the_page_is_a_pipeline(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(package)
    (block,) = blocks(PAGE, "yaml")
    (tmp_path / "page.yaml").write_text(block.text)
    options = CompileOptions(pipeline=str(tmp_path / "page.yaml"))
    names = [one.name for one in selection(options).passes]
    usual = [one.name for one in PASSES if one.name != "silu_mul"]
    usual.insert(usual.index("shared_expert") + 1, NAME)
    assert names == usual


def test_the_page_names_what_is_there() -> None:
    text = section(PAGE, "Running it")
    assert all(f"`{name}`" in text for name in FIXED if name != "memory_plan")
    for name in ("glmc/passes/silu_mul.py", "tests/passes/test_silu_mul.py"):
        assert f"`{name}`" in PAGE.read_text() and (ROOT / name).is_file()
