"""``--deterministic=ranks``: the bits of one rank, on several; ``batch`` on several ranks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import distributed

import glmc_runtime
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc.errors import LoweringError, UsageError
from glmc_runtime.generate.session import Session
from glmc_runtime.kernels.cpu.compiled import NoLibraryError, required
from tests.e2e.test_deterministic import MODELS, prompts

TOKENS = 4


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    try:
        required("ordered")
    except NoLibraryError as reason:
        pytest.skip(str(reason))


def options(dtype: str, promise: str, ranks: int) -> CompileOptions:
    return CompileOptions(
        dtype=dtype,
        deterministic=promise,
        tensor_parallel=ranks,
        max_context=256,
        block_size=16,
        decode_buckets=(1, 4),
        prefill_buckets=(64, 256),
    )


def logits(session: Session, given: list[list[int]]) -> torch.Tensor:
    """After each prompt and each of the likeliest tokens, all texts in one batch."""
    sequences = [session.sequence(prompt) for prompt in given]
    rows = [session.prefill(sequences)]
    while len(rows) < TOKENS:
        likeliest = [int(row.argmax()) for row in rows[-1]]
        rows.append(session.decode(sequences, likeliest))
    return torch.stack(rows, 1)


def on_ranks(path: Path, ranks: int, *batches: list[list[int]]) -> list[torch.Tensor]:
    """The logits of rank 0; each rank is a fork, without the seconds of its imports."""
    with TemporaryDirectory() as meeting:
        found = Path(meeting) / "logits"
        processes = []
        for rank in range(ranks):
            process = os.fork()
            if process == 0:
                status = 1
                try:
                    torch.set_num_threads(1)  # threads of OpenMP do not outlive a fork
                    place = f"file://{meeting}/store"
                    distributed.init_process_group(
                        "gloo", init_method=place, rank=rank, world_size=ranks
                    )
                    session = glmc_runtime.load(path, process_group=distributed.group.WORLD)
                    made = [logits(session, batch) for batch in batches]
                    if rank == 0:
                        torch.save(made, found)
                    status = 0
                finally:
                    os._exit(status)
            processes.append(process)
        assert [os.waitpid(process, 0)[1] for process in processes] == [0] * ranks
        return list(torch.load(found))


@pytest.mark.parametrize(
    ("model", "dtype", "ranks"),
    [("tiny-dense", "bfloat16", 4), ("tiny-moe", "bfloat16", 2), ("tiny-dense", "float32", 8)],
)
def test_bits_are_those_of_one_rank(tmp_path: Path, model: str, dtype: str, ranks: int) -> None:
    given = prompts(3, 7)
    for count in (1, ranks):
        compile_model(MODELS[model], tmp_path / str(count), options(dtype, "ranks", count))
    with glmc_runtime.load(tmp_path / "1") as session:
        expected = logits(session, given)
    assert torch.equal(on_ranks(tmp_path / str(ranks), ranks, given)[0], expected)


@pytest.mark.parametrize(("target", "by_expert"), [("cpu", False), ("cpu", True), ("xpu", True)])
def test_a_batch_is_kept_on_several_ranks(tmp_path: Path, target: str, by_expert: bool) -> None:
    asked = replace(options("bfloat16", "batch", 2), target=target, expert_parallel=by_expert)
    compile_model(MODELS["tiny-moe"], tmp_path / "two", asked)
    given = prompts(3, 7)
    together, alone = on_ranks(tmp_path / "two", 2, given, given[:1])
    assert torch.equal(together[:1], alone)


def test_heads_that_make_another_tree_are_refused(tmp_path: Path) -> None:
    """Six heads on four ranks: two of them have a head of nothing in the middle of the sum."""
    with pytest.raises(LoweringError, match="summed in another order"):
        compile_model(MODELS["tiny-moe"], tmp_path / "four", options("float32", "ranks", 4))
    assert not (tmp_path / "four").exists()


def test_experts_that_are_dealt_whole_are_refused() -> None:
    with pytest.raises(UsageError, match="order that follows the ranks"):
        CompileOptions(deterministic="ranks", tensor_parallel=2, expert_parallel=True)
