"""docs/writing_a_pass.md: its commands install its package, compile with it and test it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from glmc.config import CompileOptions
from glmc.ir.ops import OPS
from glmc.passes import gate_up_merge
from glmc.pipeline.selection import selection
from glmc.pipeline.stages import FIXED, PASSES
from tests.docs.environments import Environment
from tests.docs.markdown import ROOT, blocks, section
from tests.docs.pages import page_environment, shown_commands, shown_files
from tests.support.traced import conditions, trace

PAGE = ROOT / "docs" / "writing_a_pass.md"
NAME = "swiglu_linear"
FOLDER = "swiglu-linear"
pytestmark = pytest.mark.usefixtures("shared_captures")


@pytest.fixture(scope="module")
def environment(shared_captures: None, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """With the package of the page installed, by the first command of the page."""
    environment = page_environment(PAGE, FOLDER, tmp_path_factory.mktemp("page"))
    installed = environment.run(shown_commands(PAGE)[0])
    assert installed.status == 0, installed
    assert "Successfully installed glmc-swiglu-linear-0.1.0" in installed.out
    return environment


@pytest.fixture(scope="module", autouse=True)
def _own_ops() -> Iterator[None]:
    """The page's op is no op of other tests of this process."""
    before = set(OPS)
    yield
    for name in set(OPS) - before:
        del OPS[name]


@pytest.fixture
def activated(environment: Environment) -> Iterator[None]:
    with environment.activated():
        yield


@pytest.fixture
def module(activated: None) -> ModuleType:
    """The page's pass; an op is registered once in a process, so it stays."""
    return importlib.import_module(NAME)


def test_the_page_shows_three_files_and_commands() -> None:
    assert list(shown_files(PAGE)) == ["pyproject.toml", f"{NAME}.py", f"test_{NAME}.py"]
    programs = [command.split()[0] for command in shown_commands(PAGE)]
    assert programs == ["pip", "glmc", "pytest"]


@pytest.mark.long
def test_the_command_of_the_page_shows_that_the_pass_fires(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, compiling, _) = shown_commands(PAGE)
    monkeypatch.setenv("COLUMNS", "200")
    compiled = environment.run(compiling)
    assert compiled.status == 0, compiled
    row = next(line for line in compiled.out.splitlines() if NAME in line)
    assert [cell.strip() for cell in row.split("│")[1:7]] == [
        NAME,
        "bitwise",
        "148",
        "147",
        "1",
        "-",
    ]
    assert f"pass {NAME} comes from glmc-swiglu-linear 0.1.0" in compiled.out
    report = json.loads((environment.directory / "tiny-moe.cpu.glmc" / "report.json").read_text())
    assert report["options"]["passes_on"] == [NAME]
    assert [one["layers"] for one in report["passes"] if one["name"] == NAME] == [[0]]
    dumped = environment.run(f"{compiling} --force --dump dump --dump-after {NAME}")
    assert dumped.status == 0, dumped
    dump = environment.directory / "dump" / f"013_fuse_{NAME}.py"
    assert f"import {NAME}  # " in dump.read_text()


@pytest.mark.long
def test_the_tests_of_the_page_pass(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pytest alone, as the page installs it: ``-n`` of xdist is unknown."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    tested = environment.run(shown_commands(PAGE)[2])
    assert (tested.status, "2 passed" in tested.out) == (0, True), tested


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
    ("twist", "reasons"),
    [
        (Mlp(), []),
        (Mlp(bias=True), ["the projection must have no bias"]),
        (Observed(), ["the activated value is also read elsewhere"]),
    ],
    ids=["fires", "bias", "observed"],
)
def test_the_pass_of_the_page_takes_no_twist(
    twist: nn.Module, reasons: list[str], module: ModuleType
) -> None:
    traced = trace(twist, torch.randn(2, 3, 8))
    traced.apply(gate_up_merge.PASS)
    x = torch.randn(4, 5, 8)
    before = traced(x)
    result = traced.apply(module.PASS)
    assert (conditions(result), len(result.matches)) == (reasons, 0 if reasons else 1)
    assert all(torch.equal(one, two) for one, two in zip(traced(x), before, strict=True))


@pytest.mark.usefixtures("activated")
def test_the_list_of_the_page_is_a_pipeline(tmp_path: Path) -> None:
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
