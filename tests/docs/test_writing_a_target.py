"""docs/writing_a_target.md: its package is installed, compiled for and generated with."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch

from glmc_runtime.kernels import find_binder
from tests.docs.markdown import ROOT, blocks
from tests.docs.pages import install_page, shown_files
from tests.support.command import SMALL, command_of, require_refusal

PAGE = ROOT / "docs" / "writing_a_target.md"
pytestmark = pytest.mark.usefixtures("shared_captures")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_page(PAGE, tmp_path_factory.mktemp("page") / "site")


def test_the_commands_of_the_page_compile_and_generate(
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    glmc, artifact = command_of(capsys), tmp_path / "artifact"
    lines = [line.removeprefix("$ ") for line in blocks(PAGE, "console")[0].lines]
    _, compiling, running = (
        shlex.split(line.replace("out/tiny-moe.acme", str(artifact))) for line in lines
    )
    assert compiling[0] == running[0] == "glmc"
    monkeypatch.chdir(ROOT)
    with monkeypatch.context() as path:
        path.syspath_prepend(package)
        made = glmc(*compiling[1:], *SMALL)
        assert made.status == 0, made.err
        assert '"acme.swiglu"' in (artifact / "plans" / "decode.json").read_text()
        ran = glmc(*running[1:])
        assert (ran.status, ran.out != "") == (0, True), ran.err
    x = torch.randn(3, 16, dtype=torch.bfloat16)
    results = [torch.full((3, 8), torch.nan, dtype=torch.bfloat16) for _ in range(2)]
    for name, out in zip(("acme.swiglu", "cpu.swiglu"), results, strict=True):
        find_binder(name)({"x": x, "out": out})()
    assert torch.equal(*results)
    # The artifact alone brings no code.
    require_refusal(glmc(*running[1:]), "GLMC-2002", "acme", "install the distribution")


def test_the_page_shows_three_files() -> None:
    files = shown_files(PAGE)
    assert list(files) == ["pyproject.toml", "acme_target.py", "acme_kernels.py"]
    # The runtime's half stands alone on the target machine.
    assert "import glmc\n" not in files["acme_kernels.py"]
    assert "from glmc." not in files["acme_kernels.py"]
