"""The hand-made alignment, as one of the sample's compile."""

from __future__ import annotations

from dataclasses import replace

from glmc.check.align.result import Alignment
from tests.check.align.alignments import alignment


def sample_alignment() -> Alignment:
    stock = {"model": "toy-moe", "target": "eager"}
    return replace(
        alignment(), facts=(stock, {"model": "toy-moe", "target": "xpu", "emulated": True})
    )
