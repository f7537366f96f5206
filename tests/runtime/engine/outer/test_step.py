"""A step of an outer engine: what of it is looked at, and that nothing waits for a device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from glmc_runtime.engine.outer.step import OuterStep, check_form, check_lengths
from glmc_runtime.errors import RequestError

CPU, META = torch.device("cpu"), torch.device("meta")


def check_step(given: OuterStep, device: torch.device, max_context: int, block_size: int) -> None:
    check_form(given, device)
    check_lengths(given, max_context, block_size)


def step(**changes: Any) -> OuterStep:
    """Three sequences with 1, 4 and 2 new tokens, in buffers that are longer than needed."""
    good = OuterStep(
        token_ids=torch.zeros(16, dtype=torch.int32),
        positions=torch.zeros(16, dtype=torch.int64),
        slot_mapping=torch.zeros(16, dtype=torch.int64),
        block_tables=torch.zeros(8, 5, dtype=torch.int32),
        context_lengths=torch.tensor([9, 4, 30, 0, 0], dtype=torch.int32),
        cu_seqlens_q=torch.tensor([0, 1, 5, 7, 0], dtype=torch.int32),
        tokens=7,
        sequences=3,
        longest_query=4,
    )
    return replace(good, **changes)


def test_a_good_step_is_taken() -> None:
    check_step(step(), CPU, 30, 8)
    check_step(step(tokens=3, longest_query=1, cu_seqlens_q=torch.arange(4)), CPU, 30, 8)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"tokens": 0}, "no such numbers"),
        ({"sequences": 0}, "no such numbers"),
        ({"sequences": 8}, "no such numbers"),
        ({"longest_query": 0}, "no such numbers"),
        ({"longest_query": 8}, "no such numbers"),
        ({"longest_query": 2}, "not those of its sequences"),
        ({"longest_query": 1}, "not those of its sequences"),
        ({"token_ids": torch.zeros(6, dtype=torch.int64)}, "'token_ids' is not"),
        ({"positions": torch.zeros(16)}, "'positions' is not"),
        ({"slot_mapping": torch.zeros(16, 1, dtype=torch.int64)}, "'slot_mapping' is not"),
        ({"slot_mapping": [0] * 16}, "'slot_mapping' is not"),
        ({"block_tables": torch.zeros(2, 5, dtype=torch.int32)}, "'block_tables' is not"),
        ({"block_tables": torch.zeros(8, 0, dtype=torch.int32)}, "'block_tables' is not"),
        ({"context_lengths": torch.zeros(2, dtype=torch.int32)}, "'context_lengths' is not"),
        ({"cu_seqlens_q": torch.zeros(3, dtype=torch.int32)}, "'cu_seqlens_q' is not"),
        ({"token_ids": torch.zeros(16, dtype=torch.int64, device="meta")}, "'token_ids' is not"),
        (
            {"context_lengths_host": torch.zeros(3, dtype=torch.int32, device="meta")},
            "'context_lengths_host' is not",
        ),
        ({"context_lengths": torch.tensor([9, 4, 31])}, "no such number of tokens"),
        ({"context_lengths": torch.tensor([9, 0, 30])}, "no such number of tokens"),
        ({"context_lengths": torch.tensor([9, 3, 30])}, "more new tokens than tokens"),
        ({"cu_seqlens_q": torch.tensor([0, 1, 5, 6])}, "no prefix sums"),
        ({"cu_seqlens_q": torch.tensor([1, 1, 5, 7])}, "no prefix sums"),
        ({"cu_seqlens_q": torch.tensor([0, 5, 4, 7])}, "no prefix sums"),
        ({"cu_seqlens_q": torch.tensor([0, 0, 4, 7])}, "no prefix sums"),
        ({"cu_seqlens_q": torch.tensor([0, 4, 4, 7])}, "no prefix sums"),
        ({"block_tables": torch.zeros(8, 3, dtype=torch.int32)}, "has blocks for"),
        ({"context_lengths_host": torch.tensor([9, 4, 29])}, "not the same numbers"),
        ({"cu_seqlens_q_host": torch.tensor([0, 2, 5, 7])}, "not the same numbers"),
        ({"tokens": "7"}, "tokens is no integer"),
        ({"cu_seqlens_q": torch.tensor([0, 5, 6, 7])}, "no prefix sums"),
    ],
)
def test_a_step_that_can_not_be_right_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(RequestError, match=text):
        check_step(step(**changes), CPU, 30, 8)


def test_lengths_on_a_device_are_not_read() -> None:
    """A meta tensor has no numbers: whoever reads one fails."""
    names = ("token_ids", "positions", "slot_mapping", "block_tables", "context_lengths")
    far = {name: getattr(step(), name).to(META) for name in (*names, "cu_seqlens_q")}
    check_step(step(**far), META, 30, 8)
    beside = {"context_lengths_host": torch.tensor([9, 4, 31])}
    with pytest.raises(RequestError, match="no such number of tokens"):
        check_step(step(**far, **beside), META, 30, 8)
