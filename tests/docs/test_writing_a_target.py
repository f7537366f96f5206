"""docs/writing_a_target.md: its commands install its package, compile for it and generate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glmc_runtime.kernels import find_binder
from tests.docs.environments import make_environment
from tests.docs.markdown import ROOT
from tests.docs.pages import page_environment, shown_commands, shown_files
from tests.support.command import require_refusal

PAGE = ROOT / "docs" / "writing_a_target.md"
pytestmark = pytest.mark.usefixtures("shared_captures")


@pytest.mark.long
def test_the_commands_of_the_page_install_compile_and_generate(
    tmp_path: Path,
) -> None:
    environment = page_environment(PAGE, "acme", tmp_path / "page")
    installing, compiling, running = shown_commands(PAGE)
    for command in (installing, compiling, running):
        ran = environment.run(command)
        assert (ran.status, ran.out != "") == (0, True), ran
    artifact = environment.directory / "out" / "tiny-moe.acme"
    assert '"acme.swiglu"' in (artifact / "plans" / "decode.json").read_text()
    x = torch.randn(3, 16, dtype=torch.bfloat16)
    results = [torch.full((3, 8), torch.nan, dtype=torch.bfloat16) for _ in range(2)]
    with environment.activated():
        for name, out in zip(("acme.swiglu", "cpu.swiglu"), results, strict=True):
            find_binder(name)({"x": x, "out": out})()
    assert torch.equal(*results)
    # The artifact alone brings no code.
    bare = make_environment(tmp_path / "bare", environment.directory)
    require_refusal(bare.run(running), "GLMC-2002", "acme", "install the distribution")


def test_the_page_shows_three_files() -> None:
    files = shown_files(PAGE)
    assert list(files) == ["pyproject.toml", "acme_target.py", "acme_kernels.py"]
    # The runtime's half stands alone on the target machine.
    assert "import glmc\n" not in files["acme_kernels.py"]
    assert "from glmc." not in files["acme_kernels.py"]
