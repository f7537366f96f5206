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

from glmc_runtime.collectives import launch
from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.launch import run_job
from glmc_runtime.errors import GuardError, RankError

HERE = "tests.runtime.collectives.test_launch"
ASIDE = "import sys, time, json; given = json.loads(sys.argv[1]); rank = given['rank']; "


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


def quick(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Ranks that import nothing and run ``code``."""
    monkeypatch.setattr(
        launch, "_command", lambda words: [sys.executable, "-S", "-c", ASIDE + code, words]
    )


def run(limit: float) -> str:
    return run_job(f"{HERE}:add", {}, 3, topology="one-host", limit=limit)


def test_rank_0_gives_the_result(tmp_path: Path) -> None:
    text = run_job(f"{HERE}:add", {"folder": str(tmp_path)}, 2, topology="one-host", limit=60)
    assert text == "[12.0, 12.0, 12.0] on cpu"
    assert ended(pids_in(tmp_path, 2))


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


def test_a_rank_that_fails_is_named_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch, "sys.exit('no such card') if rank == 1 else time.sleep(600)")
    with pytest.raises(RankError, match="rank 1 failed") as caught:
        run(60)
    assert "exit status 1" in caught.value.found and "no such card" in caught.value.found


def test_a_rank_that_is_killed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch, "import os; os.kill(os.getpid(), 9) if rank == 2 else time.sleep(600)")
    with pytest.raises(RankError, match="rank 2 failed") as caught:
        run(60)
    assert "signal 9" in caught.value.found


def test_ranks_that_hang_are_stopped_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch, "time.sleep(600 if rank else 0)")
    started = time.monotonic()
    with pytest.raises(RankError, match="did not end in time") as caught:
        run(1.0)
    assert caught.value.place == "rank 1, 2" and time.monotonic() - started < 10


def test_nccl_asks_for_a_card_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(GuardError, match="need a card each"):
        run_job(f"{HERE}:add", {}, 2, backend="nccl", topology="one-host", limit=1)
