"""A checkpoint and outputs that are no plain files are refused, not waited for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from glmc.cli.main import main
from glmc.errors import CheckpointError, ConfigError
from glmc.plain_file import begins_with, read_plain
from glmc.presets.catalog import load_config
from glmc.weights.checkpoint import open_checkpoint
from glmc.weights.files import INDEX

TINY = Path(__file__).resolve().parents[1] / "models" / "tiny-dense"

Make = Callable[[Path], object]
KINDS: dict[str, Make] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "endless": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def replaced(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    KINDS[kind](path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_config(checkpoint: Path, kind: str) -> None:
    replaced(checkpoint / "config.json", kind)
    with pytest.raises(ConfigError, match="no plain file"):
        load_config(checkpoint)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00002.safetensors", INDEX])
def test_weights(checkpoint: Path, kind: str, name: str) -> None:
    fields = load_config(checkpoint).fields
    if "-of-" in name:
        shard = checkpoint / "model-00002-of-00002.safetensors"
        (checkpoint / "model.safetensors").rename(shard)
    replaced(checkpoint / name, kind)
    if name == INDEX:  # is looked for, and then it is none
        open_checkpoint(checkpoint, fields)
        return
    with pytest.raises(CheckpointError, match="no plain file"):
        open_checkpoint(checkpoint, fields)


def test_links_to_files_are_read(checkpoint: Path, tmp_path: Path) -> None:
    """A cache of downloads consists of them."""
    for name in ("config.json", "model.safetensors"):
        (checkpoint / name).rename(tmp_path / name)
        (checkpoint / name).symlink_to(tmp_path / name)
    assert open_checkpoint(checkpoint, load_config(checkpoint).fields)


def test_a_file_without_end_is_not_read(checkpoint: Path) -> None:
    os.truncate(checkpoint / "config.json", 1 << 40)
    with pytest.raises(ConfigError, match="has more than"):
        load_config(checkpoint)


def test_read_and_mark(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"mark and more")
    assert read_plain(path) == b"mark and more"
    assert begins_with(path, "mark", 4)
    assert not begins_with(path, "more", 8)
    os.mkfifo(tmp_path / "pipe")
    assert not begins_with(tmp_path / "pipe", "mark", 4)


def test_an_output_that_is_a_pipe_is_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "repro.py")
    assert main(["bisect", str(TINY), "--output", str(tmp_path / "repro.py")]) == 2
    assert "no reproduction of ours" in capsys.readouterr().err
