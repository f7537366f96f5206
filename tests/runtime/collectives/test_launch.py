"""Ranks of a short job: their result, their failures, and that none of them stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from glmc_runtime.collectives import launch
from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.launch import run_job
from glmc_runtime.command.rank_processes import Ended
from glmc_runtime.errors import GuardError, RankError

HERE = "tests.runtime.collectives.test_launch"


def add(group: Group, device: torch.device, folder: str) -> str:
    """Add in shared memory; then rank 0 ends, or all wait where a file says so."""
    x = torch.full((3,), 1.0 + group.rank, device=device)
    for name in ("one_shot", "two_shot", "library"):
        group.all_reduce_of(x, name)()
    place = Path(folder)
    (place / f"{group.rank}").write_text(str(os.getpid()))
    time.sleep(600 if (place / "wait").exists() else 0)
    return f"{x.tolist()} on {device}"


def ended(pids: list[int]) -> bool:
    """Whether none of these processes is there any more, but as a zombie."""
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        if status.rsplit(")", 1)[1].split()[0] != "Z":
            return False
    return True


def pids_in(folder: Path, count: int) -> list[int]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        files = [file for file in folder.iterdir() if file.name != "wait"]
        texts = [file.read_text() for file in files]
        if len(texts) == count and all(texts):
            return list(map(int, texts))
        time.sleep(0.02)
    raise TimeoutError


@pytest.mark.long
def test_rank_0_gives_the_result(tmp_path: Path) -> None:
    text = run_job(f"{HERE}:add", {"folder": str(tmp_path)}, 2, topology="one-host", limit=60)
    assert text == "[12.0, 12.0, 12.0] on cpu"
    assert ended(pids_in(tmp_path, 2))


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_nothing_outlives_who_started_it(tmp_path: Path) -> None:
    """Neither a rank nor a name of shared memory, after kill -9."""
    (tmp_path / "wait").touch()
    before = set(os.listdir("/dev/shm"))
    code = (
        "from glmc_runtime.collectives.launch import run_job\n"
        f"run_job('{HERE}:add', {{'folder': {str(tmp_path)!r}}}, 2, topology='x', limit=60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        pids = pids_in(tmp_path, 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        end = time.monotonic() + 10
        while not ended(pids) and time.monotonic() < end:
            time.sleep(0.02)
        assert ended(pids)
    finally:
        process.kill()
        process.wait()
    assert not [name for name in set(os.listdir("/dev/shm")) - before if "glmc" in name]


def refuse(group: Group, device: torch.device) -> str:
    raise GuardError("no such card", found="none")


def test_a_rank_that_fails_says_why_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_process_group", lambda *_: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    with pytest.raises(SystemExit) as caught:
        launch.take_part(1, 2, tmp_path, f"{HERE}:refuse", {}, "gloo", "one-host", 60.0)
    assert str(caught.value).startswith("[GLMC-2002] no such card")


def test_ranks_that_do_not_end_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Ended({0: "text"}, "timed out after 1 s: no answer of rank 1", ("x" * 300,))
    monkeypatch.setattr(launch, "run_ranks", lambda *_, **__: late)
    with pytest.raises(RankError, match="no answer of rank 1") as caught:
        run_job(f"{HERE}:add", {}, 2, topology="one-host", limit=1)
    assert "x" * 200 in caught.value.found and "x" * 201 not in caught.value.found


@pytest.mark.parametrize("backend", launch.BACKENDS)
def test_a_rank_of_torchrun_takes_its_own_card(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the group is joined: what is made for no card by name is made on it."""
    done: list[object] = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "set_device", done.append)
    monkeypatch.setattr(dist, "init_process_group", done.append)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 8)
    text = launch.joined_job(f"{HERE}:place", {}, backend, "one-host")
    assert done == ([3, "nccl"] if backend == "nccl" else ["gloo"])
    assert text == ("0 of 8 on cuda:3" if backend == "nccl" else "0 of 8 on cpu")


def place(group: Group, device: torch.device) -> str:
    return f"{group.rank} of {group.size} on {device}"


def test_nccl_asks_for_a_card_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(GuardError, match="need a card each"):
        run_job(f"{HERE}:add", {}, 2, backend="nccl", topology="one-host", limit=1)
