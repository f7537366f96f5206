"""What of the proof on virtual ranks needs no GPU: values, and whether its check sees faults.

Interpreted ranks run one after another and never wait; ``test_waiting`` has ranks that do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
import torch

from bench.gpu import virtual_races, virtual_ranks
from bench.gpu.numbered_messages import check, fill
from bench.gpu.one_shot_without_barrier import without_barrier
from bench.gpu.virtual_group import VirtualGroup, resident_programs
from bench.gpu.virtual_races import PROVED, Races, plain
from bench.gpu.virtual_values import Case, fault_of, fused_fault_of
from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.cuda.collectives.all_reduce_add_rms_norm import all_reduce_add_rms_norm
from glmc_runtime.kernels.cuda.collectives.one_shot import one_shot
from glmc_runtime.kernels.cuda.collectives.two_shot import two_shot
from tests.support.interpreted import quick_interpreter, stored
from tests.support.thinned import thinned

CPU = torch.device("cpu")
CAPACITY = 1 << 14
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="the command is run there"),
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def _quick_interpreter() -> Iterator[None]:
    with quick_interpreter():
        yield


SIZES = (
    (torch.bfloat16, 1, 0),
    (torch.bfloat16, 9001, 1),
    (torch.float16, 2048, 0),
    (torch.float32, 5121, 0),
    (torch.float32, 4097, 1),
)
WAYS = tuple(product((2, 3), ("one_shot", "two_shot")))
# Every two of ranks, algorithm and size; the other half repeats them.
LONG = [
    (ranks, algorithm, *SIZES[at])
    for at in range(len(SIZES))
    for ranks, algorithm in (WAYS[1:3] if at % 2 else WAYS[::3])
]


@pytest.mark.parametrize(
    ("ranks", "algorithm", "dtype", "size", "offset"),
    thinned([(*way, *size) for way in WAYS for size in SIZES], long=LONG),
)
def test_values_are_sums_in_the_order_of_the_ranks(
    ranks: int, algorithm: str, dtype: torch.dtype, size: int, offset: int
) -> None:
    group = VirtualGroup(ranks, CPU, 2, CAPACITY)
    assert fault_of(group, Case(algorithm, dtype, size, offset), stored) == ""


@pytest.mark.long
def test_eight_ranks() -> None:
    group = VirtualGroup(8, CPU, 3, CAPACITY)
    for algorithm in ("one_shot", "two_shot"):
        assert fault_of(group, Case(algorithm, torch.float16, 6000), stored) == ""


@pytest.mark.parametrize(
    ("dtype", "rows", "width"),
    [(torch.bfloat16, 3, 63), (torch.float16, 9, 1000), (torch.float32, 5, 64)],
)
def test_one_kernel_with_the_norm_has_the_bits_of_two_calls(
    dtype: torch.dtype, rows: int, width: int
) -> None:
    group = VirtualGroup(3, CPU, 2, CAPACITY)
    assert fused_fault_of(group, dtype, rows, width) == ""


def test_messages_that_a_slot_can_not_take_are_refused() -> None:
    memory = VirtualGroup(2, CPU, 2, CAPACITY).peers[0]
    wide = torch.zeros(4, 64)
    for function in (one_shot, two_shot):
        for wrong in (wide, wide.view(-1)[::2], torch.zeros(8, dtype=torch.int64)):
            with pytest.raises(PlanError):
                function(memory, wrong)
    given = {name: torch.zeros(4, 64) for name in ("x", "residual", "out", "total")}
    given |= {"weight": torch.zeros(64), "eps": 1e-5}
    for name, wrong in (
        ("x", torch.zeros(64, 4).t()),
        ("weight", torch.zeros(64, dtype=torch.bfloat16)),
        ("weight", torch.zeros(32)),
        ("out", torch.zeros(4, 32)),
    ):
        with pytest.raises(PlanError):
            all_reduce_add_rms_norm(memory, {**given, name: wrong})
    with pytest.raises(PlanError, match="length that a kernel needs"):
        all_reduce_add_rms_norm(replace(memory, capacity=1000), given)


def test_another_order_of_sums_is_seen() -> None:
    def other(total: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return stored(total + 1e-3, dtype)

    group = VirtualGroup(2, CPU, 2, CAPACITY)
    assert "element" in fault_of(group, Case("one_shot", torch.float32, 2048), other)


def test_the_check_sees_one_wrong_element_and_ranks_that_do_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(virtual_races, "SIZES", (1, 63, 2049))
    monkeypatch.setattr(virtual_races, "_WIDTH", 64)
    monkeypatch.setattr(virtual_races, "CALLS", 4)
    monkeypatch.setattr(virtual_races, "QUEUED", 2)
    monkeypatch.setattr(virtual_races, "ROUNDS", 1)
    group = VirtualGroup(2, CPU, 2, CAPACITY)
    counts = Races(group, {"without barrier": plain(without_barrier)}, graphs=1).run(0)
    assert counts.faults and counts.calls == 8
    Races(group, PROVED, graphs=2)  # which runs each call alone
    use, faults = torch.tensor([5], dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    parts = [torch.empty(3001) for _ in range(2)]
    for rank, part in enumerate(parts):
        fill(part, use, rank)
    group.run([one_shot(*pair) for pair in zip(group.peers, parts, strict=True)], parts)
    for part in parts:
        check(part, use, faults, 2)
    assert faults.tolist() == [0, 0]
    parts[0][7] += 1
    check(parts[0], use, faults, 2)
    assert faults.tolist() == [1, 5]


def test_all_ranks_are_resident_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.gpu.virtual_group.multiprocessors", lambda _: 132)
    assert [resident_programs(ranks, CPU) for ranks in (2, 4, 8)] == [32, 16, 8]


def test_programmatic_dependent_launch_is_for_two_ranks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLMC_CUDA_PDL", "1")
    monkeypatch.setenv(virtual_ranks.CONNECTIONS, "32")
    with pytest.raises(SystemExit):
        virtual_ranks.main(["--ranks", "2,3", "--pdl"])
    assert "2 ranks at most" in capsys.readouterr().err
    assert os.environ["GLMC_CUDA_PDL"] == "1"
    assert virtual_ranks.main(["--ranks", "4"]) == 1  # there is no GPU here
    assert os.environ["GLMC_CUDA_PDL"] == "0"
