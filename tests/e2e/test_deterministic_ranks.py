"""``--deterministic=ranks``: the bits of one rank, on several; ``batch`` on several ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc.config import CompileOptions
from glmc.errors import UsageError
from glmc_runtime.generate.session import Session
from glmc_runtime.kernels.cpu.compiled import NoLibraryError, required
from tests.e2e.build import CPU, EMULATED, Place
from tests.e2e.ranks import RankedBuilder, with_ranks
from tests.e2e.test_deterministic import MODELS, alone, prompts, together
from tests.support.models import tiny_config, tiny_model

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("shared_captures")]

UNEVEN = {
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "intermediate_size": 100,
    "moe_intermediate_size": 44,
    "vocab_size": 1503,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
}
"""Hardly anything divides by two, four or eight."""
COMMON: dict[str, Any] = {
    "max_context": 128,
    "block_size": 16,
    "decode_buckets": (1, 4),
    "prefill_buckets": (64, 256),
}
RANKS = (1, 2, 4, 8)


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    try:
        required("ordered")
    except NoLibraryError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def builders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RankedBuilder]]:
    uneven = tmp_path_factory.mktemp("checkpoint")
    tiny_model(tiny_config("glm4_moe", **UNEVEN)).save_pretrained(uneven)
    found = {**MODELS, "uneven": uneven}
    yield {
        name: RankedBuilder(path, tmp_path_factory.mktemp("artifacts"), COMMON)
        for name, path in found.items()
    }


def given(seed: int) -> list[list[int]]:
    return [prompt[:90] for prompt in prompts(4, seed)]


def logits(path: Path, seed: int) -> torch.Tensor:
    """Of random texts that join, leave and are cut at random; all ranks must agree."""

    def act(session: Session) -> torch.Tensor:
        return torch.stack(together(session, given(seed), seed))

    first, *others = with_ranks(path, act)
    assert all(torch.equal(first, other) for other in others)
    return first


def lonely(path: Path, seed: int) -> torch.Tensor:
    """Of the same texts one after the other, on rank 0."""

    def act(session: Session) -> torch.Tensor:
        return torch.stack([alone(session, prompt) for prompt in given(seed)])

    return with_ranks(path, act)[0]


def differing(
    builder: RankedBuilder, place: Place, dtype: str, ranks: Sequence[int] = RANKS, **more: Any
) -> list[int]:
    """The numbers of ranks whose bits are not those of one rank."""
    seed = 7
    paths = {
        count: builder.artifact(place, dtype, deterministic="ranks", tensor_parallel=count, **more)
        for count in ranks
    }
    expected = lonely(paths[1], seed)
    return [count for count in ranks if not torch.equal(logits(paths[count], seed), expected)]


@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        ("tiny-dense", "bfloat16"),
        ("tiny-moe", "bfloat16"),
        pytest.param("uneven", "float32", marks=pytest.mark.slow),
        pytest.param("tiny-dense", "float32", marks=pytest.mark.slow),
        pytest.param("tiny-moe", "float32", marks=pytest.mark.slow),
        pytest.param("uneven", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_bits_are_those_of_one_rank(
    builders: dict[str, RankedBuilder], model: str, dtype: str
) -> None:
    assert differing(builders[model], CPU, dtype) == []


@pytest.mark.parametrize(
    ("model", "place", "ranks"),
    [
        ("tiny-moe", EMULATED[0], (1, 4)),
        *(
            pytest.param(model, place, RANKS, marks=pytest.mark.slow)
            for model in MODELS
            for place in EMULATED
        ),
    ],
)
def test_so_they_are_on_the_emulator(
    builders: dict[str, RankedBuilder], model: str, place: Place, ranks: tuple[int, ...]
) -> None:
    assert differing(builders[model], place, "bfloat16", ranks, block_size=64) == []


def test_without_the_promise_they_follow_the_ranks(builders: dict[str, RankedBuilder]) -> None:
    """Else the tests above would prove nothing."""
    one, four = (
        builders["tiny-moe"].artifact(CPU, "bfloat16", deterministic="batch", tensor_parallel=count)
        for count in (1, 4)
    )
    assert not torch.equal(logits(four, 7), lonely(one, 7))


@pytest.mark.parametrize(
    ("place", "by_expert"), [(CPU, False), (CPU, True), (EMULATED[0], False), (EMULATED[0], True)]
)
def test_a_batch_is_kept_on_several_ranks(
    builders: dict[str, RankedBuilder], place: Place, by_expert: bool
) -> None:
    path = builders["tiny-moe"].artifact(
        place,
        "bfloat16",
        deterministic="batch",
        tensor_parallel=2,
        expert_parallel=by_expert,
        block_size=64,
    )
    assert torch.equal(logits(path, 7), lonely(path, 7))


def test_experts_that_are_dealt_whole_are_refused() -> None:
    with pytest.raises(UsageError, match="order that follows the ranks"):
        CompileOptions(deterministic="ranks", tensor_parallel=2, expert_parallel=True)


def test_a_number_of_ranks_that_makes_another_tree_is_refused() -> None:
    with pytest.raises(UsageError, match="order of eight"):
        CompileOptions(deterministic="ranks", tensor_parallel=6)
