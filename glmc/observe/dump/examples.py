"""Small inputs that fit together: two sequences, their positions, blocks and slots."""

from __future__ import annotations

from torch.fx import Node

from glmc.ir.program import Cache
from glmc.observe.dump.values import Values
from glmc_runtime.format.phases import PHASES
from glmc_runtime.format.step_inputs import STEP_INPUTS
from glmc_runtime.replay.step import ScheduledTokens, Step

_RAGGED = ((0,), (0, 1, 2))  # new positions of two sequences
_ONE_TOKEN = ((2,), (0,))


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
    one_token = phase in PHASES and PHASES[phase].equates("tokens", "sequences")
    chunks, count = [], 0
    for number, new in enumerate(_ONE_TOKEN if one_token else _RAGGED):
        blocks = [1 + number * table + block for block in range(table)]
        tokens = list(range(count, count + len(new)))
        chunks.append(ScheduledTokens(tokens, new[0], blocks))
        count += len(new)
    step = Step(chunks, count, len(chunks), block_size)
    return {name: row.values(step, table) for name, row in STEP_INPUTS.items() if row.fits(step)}


def block_size_of(inputs: list[Node], values: Values) -> int:
    """The tokens of a block, read from the shape of the first cache; 1 without a cache."""
    for node in inputs:
        if "cache" in node.meta:
            cache: Cache = node.meta["cache"]
            return values.shape(node.meta["val"])[1 + cache.block_dimension]
    return 1
