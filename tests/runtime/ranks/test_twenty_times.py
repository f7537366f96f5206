"""Ranks that are killed, stopped or given another file at any moment, twenty times each.

While they start or compute: all end within ten seconds with an error of that rank, and no process,
shared memory or descriptor is left.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import threading
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

import glmc_runtime
from glmc_runtime.errors import ArtifactError, GlmcError, RankError
from tests.runtime.ranks.conftest import Start
from tests.runtime.ranks.test_failures import (
    LIMIT,
    PROMPT,
    children,
    program,
    rank_of,
    wait_gone,
)

pytestmark = pytest.mark.slow
TIMES = 20


class Strike(threading.Thread):
    """Sends a signal to rank 1, some time after its process is there."""

    def __init__(self, number: signal.Signals, delay: float) -> None:
        super().__init__()
        self.number, self.delay = number, delay
        self.struck = 0.0

    def run(self) -> None:
        while not (found := [each for each in children() if rank_of(each) == 1]):
            sleep(0.01)
        sleep(self.delay)
        found[0].send_signal(self.number)
        self.struck = monotonic()


def left() -> tuple[set[str], int]:
    """Shared memory with a name, and how many descriptors this process has."""
    gc.collect()
    return set(os.listdir("/dev/shm")), psutil.Process().num_fds()


def error_of(start: Start, path: Path) -> GlmcError:
    with pytest.raises(GlmcError) as caught, start(path) as session:
        while True:
            session.generate(PROMPT, max_new_tokens=16, ignore_eos=True)
    error = caught.value.with_traceback(None)
    return type(error)(error.message, place=error.place)


@pytest.fixture
def start(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Keeps no session."""
    monkeypatch.syspath_prepend(str(kernels))
    return glmc_runtime.load


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_signals(ranks_path: Path, start: Start, number: signal.Signals) -> None:
    chance = random.Random(int(number))
    before = left()
    seconds = []
    for _ in range(TIMES):
        strike = Strike(number, chance.uniform(0.0, 6.0))
        strike.start()
        error = error_of(start, ranks_path)
        ended = monotonic()
        strike.join()
        seconds.append(ended - strike.struck)
        assert isinstance(error, RankError) and error.message.startswith("rank 1 "), error
        assert seconds[-1] < LIMIT
        assert not children()
        assert left() == before
    print(f"{number.name}: longest {max(seconds):.2f} s of {TIMES}")


def test_ctrl_c(ranks_path: Path, kernels: Path) -> None:
    """At any moment after the first ranks are there: the program ends, and all of them."""
    chance = random.Random(2)
    before = left()
    seconds = []
    for _ in range(TIMES):
        with program(ranks_path, kernels) as process:
            try:
                while not (ranks := children(process.pid)):
                    sleep(0.01)
                sleep(chance.uniform(0.0, 6.0))
                ranks = {*ranks, *children(process.pid)}
                struck = monotonic()
                process.send_signal(signal.SIGINT)
                process.wait(LIMIT)
            finally:
                process.kill()
        wait_gone(ranks)
        seconds.append(monotonic() - struck)
        assert seconds[-1] < LIMIT
        assert left() == before
    print(f"SIGINT: longest {max(seconds):.2f} s of {TIMES}")


def test_files(ranks_path: Path, tmp_path: Path, start: Start) -> None:
    chance = random.Random(3)
    before = left()
    for turn in range(TIMES):
        copy = Path(shutil.copytree(ranks_path, tmp_path / f"copy-{turn}"))
        file = copy / "weights" / f"rank-{turn % 2}" / "all.safetensors"
        data = bytearray(file.read_bytes())
        data[chance.randrange(len(data) // 2, len(data))] ^= 1
        replaced = copy.with_name(f"other-{turn}")
        replaced.write_bytes(data)
        os.replace(replaced, file)
        error = error_of(start, copy)
        assert isinstance(error, ArtifactError), error
        assert error.place.startswith(f"rank {turn % 2} of 2: weights/rank-{turn % 2}/")
        assert not children()
        assert left() == before
