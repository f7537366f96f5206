"""Extents: sizes that are linear in the step are read back, all others are refused."""

from __future__ import annotations

import pytest
import torch

from glmc.errors import InternalError
from glmc.ir.symbols import Symbols
from glmc_runtime.format.extent import Extent


def sizes() -> tuple[Symbols, torch.SymInt, torch.SymInt, torch.SymInt]:
    symbols = Symbols()
    tokens = symbols.fake("token_ids", ("tokens",), torch.int64).shape[0]
    sequences = symbols.fake("last_rows", ("sequences",), torch.int64).shape[0]
    table = symbols.fake("tables", ("sequences", "table"), torch.int32).shape[1]
    return symbols, tokens, sequences, table  # type: ignore[return-value]


def test_linear_sizes_are_read_back() -> None:
    symbols, tokens, sequences, _ = sizes()
    assert symbols.extent(7) == Extent(constant=7)
    assert symbols.extent(tokens) == Extent.of(tokens=1)
    assert symbols.extent(3 * sequences + 2) == Extent.of(sequences=3, constant=2)
    assert symbols.extent(2 * (tokens + 4) - tokens) == Extent.of(tokens=1, constant=8)


def test_other_sizes_are_refused() -> None:
    symbols, tokens, sequences, table = sizes()
    for size in (tokens * tokens, tokens * sequences, tokens // 2, table):
        with pytest.raises(InternalError, match="not linear in the step"):
            symbols.extent(size)
