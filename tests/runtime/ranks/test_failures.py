"""All ranks end together, within ten seconds, with one error that names the rank and the cause."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

import glmc_runtime
from glmc_runtime.errors import ArtifactError, GlmcError, RankError
from glmc_runtime.generate.session import Session
from tests.runtime.ranks.conftest import Start
from tests.support.distributions import install
from tests.support.logs import logged

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
LIMIT = 10.0  # seconds
PROMPT = [7, 3, 9, 1]


def children(of: int | None = None) -> list[psutil.Process]:
    """The ranks that a process has started."""
    return [
        each
        for each in psutil.Process(of).children(recursive=True)
        if each.is_running() and "ranks.worker" in " ".join(each.cmdline())
    ]


def wait_gone(ranks: list[psutil.Process]) -> None:
    """Without waiting for them as their parent does."""
    ends = monotonic() + LIMIT
    while any(each.is_running() for each in ranks):
        assert monotonic() < ends
        sleep(0.05)


def rank_of(process: psutil.Process) -> int:
    return int(process.environ()["RANK"])


def error_after(session: Session, ranks: list[psutil.Process], number: signal.Signals) -> GlmcError:
    """The error of a session whose rank 1 gets a signal while steps run."""
    (second,) = [each for each in ranks if rank_of(each) == 1]
    timer = threading.Timer(0.2, second.send_signal, (number,))
    timer.start()
    started = monotonic()
    with pytest.raises(GlmcError) as caught:
        while monotonic() - started < 2 * LIMIT:
            session.generate(PROMPT, max_new_tokens=16, ignore_eos=True)
    timer.join()
    assert monotonic() - started < LIMIT
    return caught.value


def test_a_rank_that_is_killed_ends_all(
    ranks_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLMC_LOGS", "device")
    with logged("glmc_runtime.ranks") as lines:
        session = start(ranks_path)
        ranks = children()
        assert len(ranks) == 2
        error = error_after(session, ranks, signal.SIGKILL)
    assert isinstance(error, RankError)
    assert "rank 1 was killed by signal 9 (SIGKILL)" in str(error)
    assert "toy runs on cpu" in error.found  # the last lines that it wrote
    for rank in range(2):
        said = f"INFO glmc_runtime.ranks: rank {rank}: glmc-runtime[device]: toy runs on cpu"
        assert any(line.startswith(said) for line in lines), lines
    assert not children()
    with pytest.raises(RankError, match="rank 1 was killed") as later:
        session.generate(PROMPT, max_new_tokens=1)
    assert later.value is not error


def test_a_rank_that_is_stopped_ends_all(ranks_path: Path, start: Start) -> None:
    session = start(ranks_path)
    error = error_after(session, children(), signal.SIGSTOP)
    assert isinstance(error, RankError)
    assert "rank 1 hangs" in str(error) and "was stopped by a signal" in str(error)
    assert not children()


def test_a_rank_with_another_file_ends_all(ranks_path: Path, tmp_path: Path, start: Start) -> None:
    copy = Path(shutil.copytree(ranks_path, tmp_path / "copy"))
    weights = copy / "weights" / "rank-1" / "all.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    started = monotonic()
    with pytest.raises(ArtifactError, match="its sha256 differs") as caught:
        start(copy)
    assert monotonic() - started < LIMIT + 10  # the start itself takes seconds
    assert caught.value.place.startswith("rank 1 of 2: weights/rank-1/")
    assert not children()


def test_an_idle_session_notices_too(ranks_path: Path, start: Start) -> None:
    session = start(ranks_path)
    ranks = children()
    ranks[0].kill()
    wait_gone(ranks)
    with pytest.raises(RankError, match="SIGKILL"):
        session.prefill([session.sequence(PROMPT)])


SLOW = """
import time
from glmc_runtime import kernels
from tests.runtime import toy_kernels

plain = kernels._BINDERS["test.cache_write"]

def slow(arguments):
    thunk = plain(arguments)
    def run():
        time.sleep(6)
        return thunk()
    return run

kernels._BINDERS["test.cache_write"] = slow
"""


def test_a_long_step_is_no_hang(
    ranks_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"glmc_runtime.kernels": {"test": "slow_kernels"}}
    folder = install(tmp_path / "slow", "slow-kernels", points, {"slow_kernels.py": SLOW})
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr("glmc_runtime.engine.ranks.watch.SILENCE", 4.0)
    session = glmc_runtime.load(ranks_path)
    ranks = children()
    started = monotonic()
    session.prefill([session.sequence(PROMPT)])
    assert monotonic() - started > 6
    del session  # ranks end with a session that is collected, too
    gc.collect()
    wait_gone(ranks)


def test_a_closed_session_has_no_ranks(ranks_path: Path, start: Start) -> None:
    session = start(ranks_path)
    ranks = children()
    started = monotonic()
    session.close()
    assert monotonic() - started < 3 and not any(each.is_running() for each in ranks)
    with pytest.raises(RankError, match="have ended"):
        session.prefill([session.sequence(PROMPT)])
    session.close()


SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[2])
import glmc_runtime
session = glmc_runtime.load(sys.argv[1])
print("ready", flush=True)
while True:
    session.generate([7, 3, 9], max_new_tokens=16, ignore_eos=True)
"""


def program(ranks_path: Path, kernels: Path) -> subprocess.Popen[str]:
    """A controller in a process of its own, which says when its session is ready."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(ranks_path), str(kernels)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}"},
    )


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_ranks_end_with_their_controller(
    ranks_path: Path, kernels: Path, number: signal.Signals
) -> None:
    shared = set(os.listdir("/dev/shm"))
    with program(ranks_path, kernels) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            ranks = children(process.pid)
            assert len(ranks) == 2
            sleep(0.2)
            process.send_signal(number)
            process.wait(LIMIT)
        finally:
            process.kill()
    wait_gone(ranks)
    assert set(os.listdir("/dev/shm")) <= shared
