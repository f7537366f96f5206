"""docs/cuda.md: it compiles where there is no GPU, and ``run`` says there what is missing."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch

from tests.docs.markdown import ROOT
from tests.docs.pages import shown_commands
from tests.support.command import command_of, require_refusal

PAGE = ROOT / "docs" / "cuda.md"


@pytest.mark.usefixtures("shared_captures")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_commands_of_the_page_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installing, compiling, running, *_ = map(shlex.split, shown_commands(PAGE))
    assert [words[0] for words in (installing, compiling, running)] == ["pip", "glmc", "glmc"]
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    compiled = command_of(capsys)(*compiling[1:])
    assert compiled.status == 0, compiled.err
    require_refusal(command_of(capsys)(*running[1:]), "GLMC-2002", "missing: a CUDA device")
