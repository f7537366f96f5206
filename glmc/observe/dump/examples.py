"""Small inputs that fit together: two sequences, their positions, blocks and slots."""

from __future__ import annotations

from torch.fx import Node

from glmc.ir.program import Cache
from glmc.observe.dump.values import Values

_PREFILL = ((0,), (0, 1, 2))  # new positions of two sequences
_DECODE = ((2,), (0,))


def step_inputs(
    phase: str, block_size: int, table: int, batch: int, length: int
) -> dict[str, object]:
    """Nested lists for every step input by name.

    ``stateless`` graphs take ``batch`` rows of ``length`` tokens. The others take two packed
    sequences; each owns ``table`` blocks, counted from 1, since block 0 holds padding.
    """
    if phase == "stateless":
        rows = [[row * length + column for column in range(length)] for row in range(batch)]
        return {"token_ids": rows, "positions": [list(range(length))] * batch}
    sequences = _DECODE if phase == "decode" else _PREFILL
    tables = [
        [1 + sequence * table + block for block in range(table)]
        for sequence in range(len(sequences))
    ]
    positions = [position for new in sequences for position in new]
    slots = [
        tables[sequence][position // block_size] * block_size + position % block_size
        for sequence, new in enumerate(sequences)
        for position in new
    ]
    contexts = [new[-1] + 1 for new in sequences]
    return {
        "token_ids": list(range(len(positions))),
        "positions": positions,
        "slot_mapping": slots,
        "block_tables": tables,
        "context_lengths": contexts,
        "cu_seqlens_q": _sums([len(new) for new in sequences]),
        "cu_seqlens_k": _sums(contexts),
        "last_rows": [total - 1 for total in _sums([len(new) for new in sequences])[1:]],
    }


def _sums(lengths: list[int]) -> list[int]:
    totals = [0]
    for length in lengths:
        totals.append(totals[-1] + length)
    return totals


def block_size_of(inputs: list[Node], values: Values) -> int:
    """The tokens of a block, read from the shape of the first cache; 1 without a cache."""
    for node in inputs:
        if "cache" in node.meta:
            cache: Cache = node.meta["cache"]
            return values.shape(node.meta["val"])[1 + cache.block_dimension]
    return 1
