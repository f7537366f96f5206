"""Ranks that wait for each other, interpreted, a process each over one shared file.

This shows that flags, counts of uses and slots work together, ranks being late and sizes changing.
It can't show the order of memory on a GPU: a processor of the x86 family keeps more of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glmc_runtime.kernels.cuda.collectives.peers import flag_bytes, memory_bytes
from tests.runtime.kernels.cuda.collectives.rank_process import (
    CAPACITY,
    PROGRAMS,
    START,
    file_bytes,
)

RANKS, USES, LIMIT = 3, 24, 120


def memory_file(folder: Path, flag: int) -> Path:
    """Flags as after so many uses, and slots of NaN."""
    memory = torch.full((RANKS, memory_bytes(RANKS, PROGRAMS, CAPACITY)), 0xFF, dtype=torch.uint8)
    memory[:, : flag_bytes(RANKS, PROGRAMS)].view(torch.int64).fill_(flag)
    path = folder / "memory"
    path.write_bytes(memory.numpy().tobytes())
    assert path.stat().st_size == file_bytes(RANKS)
    return path


def ended(path: Path, uses: int, begun: int = RANKS) -> list[tuple[int, str]]:
    """Status and last words of the first ``begun`` of the ranks; the others never begin."""
    command = [sys.executable, "-m", "tests.runtime.kernels.cuda.collectives.rank_process"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(RANKS), str(uses), str(path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(begun)
    ]
    try:
        return [
            (rank.wait(LIMIT), rank.communicate()[0].strip().rpartition("\n")[2]) for rank in ranks
        ]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


@pytest.mark.skipif(torch.cuda.is_available(), reason="bench.gpu.virtual_ranks is run there")
@pytest.mark.long
def test_ranks_that_are_late_and_sizes_that_change(tmp_path: Path) -> None:
    assert ended(memory_file(tmp_path, START), USES) == [(0, "proved")] * RANKS


@pytest.mark.skipif(torch.cuda.is_available(), reason="bench.gpu.virtual_ranks is run there")
@pytest.mark.long
def test_a_rank_that_does_not_wait_is_seen(tmp_path: Path) -> None:
    """Flags so far ahead that no rank waits in its first use, and no other one that writes."""
    found = ended(memory_file(tmp_path, 1 << 40), 1, begun=1)
    assert found == [(1, "rank 0: the sum of use 0 is wrong")]
