"""What is refused before a process is started, and that none is left of one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest
import torch

import glmc_runtime
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.engine.ranks import controller, watch
from glmc_runtime.engine.ranks.launch import Ends, new_ends
from glmc_runtime.errors import ArtifactError, FileError, GuardError
from glmc_runtime.format.manifest import Ranks
from glmc_runtime.loading.loader import load_artifact


@pytest.mark.usefixtures("no_process")
def test_an_artifact_starts_no_thousand_processes(ranks_path: Path) -> None:
    artifact = load_artifact(ranks_path)
    many = replace(artifact, manifest=replace(artifact.manifest, ranks=Ranks(65)))
    with pytest.raises(GuardError, match="more ranks than are started on one host") as caught:
        controller.start_ranks(many, LoadOptions())
    assert (caught.value.expected, caught.value.found) == ("at most 64", "65")


@pytest.mark.usefixtures("no_process")
def test_no_rank_is_started_without_weights(ranks_path: Path) -> None:
    artifact = load_artifact(ranks_path, rank=None)
    bare = replace(artifact, manifest=replace(artifact.manifest, weights_included=False))
    with pytest.raises(ArtifactError, match="compiled without weights"):
        controller.start_ranks(bare, LoadOptions())


@pytest.mark.usefixtures("no_process")
def test_too_few_descriptors_are_an_error_with_a_code(
    ranks_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Ends] = []

    def one() -> Ends:
        if made:
            raise OSError(24, "Too many open files")
        made.append(new_ends())
        return made[0]

    monkeypatch.setattr(controller, "new_ends", one)
    before = psutil.Process().num_fds()
    with pytest.raises(FileError, match="Too many open files"):
        controller.start_ranks(load_artifact(ranks_path), LoadOptions())
    assert psutil.Process().num_fds() == before


@pytest.mark.usefixtures("no_process")
def test_a_torch_without_groups_is_refused(
    ranks_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    with pytest.raises(GuardError, match=r"needs torch\.distributed"):
        glmc_runtime.load(ranks_path)


def test_what_a_rank_has_started_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "pid"

    def start(*_: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["sh", "-c", f"sleep 300 & echo $! > {written}.new; mv {written}.new {written}; wait"],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    monkeypatch.setattr(watch, "start", start)
    ends = new_ends()
    made = watch.Watch(1, [ends], ())
    until(written.exists)
    child = psutil.Process(int(written.read_text()))
    made.kill()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    ends.steps.close()


def until(true: Callable[[], bool]) -> None:
    ends = monotonic() + 10
    while not true():
        assert monotonic() < ends
        sleep(0.01)
