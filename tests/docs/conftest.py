"""What several pages need."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from glmc.cli.main import main
from tests.docs.markdown import ROOT
from tests.docs.pages import shown_commands


@pytest.fixture(scope="session")
def tiny_dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of docs/serving.md, made by the command of the page in a folder with models."""
    (command,) = shown_commands(ROOT / "docs" / "serving.md")
    program, *arguments = shlex.split(command)
    folder = tmp_path_factory.mktemp("tiny-dense")
    (folder / "models").symlink_to(ROOT / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert (program, main(arguments)) == ("glmc", 0)
    return folder / arguments[-1]
