"""A batch of SGLang's becomes a step: pages of its requests, lengths, prefix sums."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from glmc_engines.sglang.step import Steps


def pool(page_size: int) -> torch.Tensor:
    """Rows of places: request r has pages 10 r + 1, 10 r + 2 and so on."""
    rows = torch.zeros(4, 8 * page_size, dtype=torch.int32)
    for row in range(4):
        for page in range(8):
            first = (10 * row + 1 + page) * page_size
            places = torch.arange(first, first + page_size, dtype=torch.int32)
            rows[row, page * page_size : (page + 1) * page_size] = places
    return rows


def batch(mode: ForwardMode, lengths: list[int], new: list[int] | None) -> Any:
    tokens = sum(new) if new else len(lengths)
    return SimpleNamespace(
        forward_mode=mode,
        batch_size=len(lengths),
        req_pool_indices=torch.tensor([2, 0][: len(lengths)]),
        seq_lens=torch.tensor(lengths),
        seq_lens_cpu=torch.tensor(lengths),
        extend_seq_lens_cpu=new,
        out_cache_loc=torch.arange(tokens),
    )


@pytest.mark.parametrize("page_size", [1, 16])
def test_pages_are_those_of_the_requests(page_size: int) -> None:
    steps = Steps(pool(page_size), page_size, 4)
    length = 2 * page_size + 1
    tokens = torch.zeros(2, dtype=torch.int64)
    step = steps.of(batch(ForwardMode.DECODE, [length, 1], None), tokens, tokens)
    assert step.block_tables.shape == (2, 3)
    assert step.block_tables[0].tolist() == [21, 22, 23]
    assert step.block_tables[1, 0] == 1


def test_a_decode_step_has_a_token_of_each_request() -> None:
    steps = Steps(pool(16), 16, 4)
    tokens = torch.tensor([7, 9])
    step = steps.of(batch(ForwardMode.DECODE, [5, 20], None), tokens, torch.tensor([4, 19]))
    assert step.is_decode
    assert (step.tokens, step.sequences) == (2, 2)
    assert step.cu_seqlens_q[:3].tolist() == [0, 1, 2]
    assert step.context_lengths.tolist() == [5, 20]


@pytest.mark.parametrize("mode", [ForwardMode.EXTEND, ForwardMode.MIXED])
def test_a_chunk_is_packed_with_its_prefix_in_the_pool(mode: ForwardMode) -> None:
    steps = Steps(pool(16), 16, 4)
    tokens = torch.arange(8)
    step = steps.of(batch(mode, [23, 5], [7, 1]), tokens, tokens)
    assert not step.is_decode
    assert step.longest_query == 7
    assert step.cu_seqlens_q.tolist() == [0, 7, 8]
    assert step.cu_seqlens_q_host is not None and step.cu_seqlens_q_host.tolist() == [0, 7, 8]
    assert step.context_lengths_host is not None
    assert step.context_lengths_host.tolist() == [23, 5]


def test_the_pool_is_not_changed() -> None:
    rows = pool(16)
    before = rows.clone()
    tokens = torch.zeros(2, dtype=torch.int64)
    Steps(rows, 16, 4).of(batch(ForwardMode.DECODE, [17, 3], None), tokens, tokens)
    assert torch.equal(rows, before)
