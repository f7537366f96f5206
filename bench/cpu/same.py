"""Whether all sides compute the same model: logits behind the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from rich.table import Table
from torch import Tensor

from bench.cpu.work import PROMPT, random_tokens
from bench.processes import Running

_STEPS, _BATCH = 24, 3
_LIMIT = {"float32": 1e-4, "bfloat16": 0.1}
"""Of the range of the logits, what the middle of the steps may differ by; two models of one shape
and other weights differ by about half."""


@dataclass(frozen=True)
class Difference:
    """Largest difference of a step's logits over their range, and likeliest tokens that agree."""

    side: str
    middle: float
    largest: float
    agreeing: int
    tokens: int

    def is_same(self, dtype: str) -> bool:
        """One step may choose other experts, where two are rated alike; the middle may not."""
        return self.middle <= _LIMIT[dtype]


def differences(sides: Sequence[Running], vocabulary: int) -> list[Difference]:
    """Each side beside the first, fed the same random tokens."""
    given = {
        "prompts": random_tokens(1, _BATCH, PROMPT, vocabulary),
        "steps": random_tokens(2, _STEPS, _BATCH, vocabulary),
    }
    first, *others = (torch.tensor(side.ask("answers", **given)["logits"]) for side in sides)
    return [
        _difference(side.name, first, other) for side, other in zip(sides[1:], others, strict=True)
    ]


def _difference(side: str, first: Tensor, other: Tensor) -> Difference:
    most = (first - other).abs().flatten(1).amax(1)
    spans = first.amax((1, 2)) - first.amin((1, 2))
    shares: list[float] = (most / spans).tolist()
    agreeing = first.argmax(-1) == other.argmax(-1)
    return Difference(side, median(shares), max(shares), int(agreeing.sum()), agreeing.numel())


def shown(first: str, found: Sequence[Difference], dtype: str, title: str) -> Table:
    table = Table(title=f"{title}, {dtype}, beside {first}")
    for column in ("", "likeliest tokens alike", "middle difference", "largest", "same model"):
        table.add_column(column, justify="right")
    for each in found:
        table.add_row(
            each.side,
            f"{each.agreeing} of {each.tokens}",
            f"{each.middle:.1e} of the range",
            f"{each.largest:.1e}",
            "yes" if each.is_same(dtype) else "NO",
        )
    return table
