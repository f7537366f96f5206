"""An alignment and a timeline of the sample, as the page of its compile shows them."""

from __future__ import annotations

from glmc.observe.page.measured import Aligned, NodeError, PlanTimes, Timed

STEPS = "decode of 1 sequence, 1 token: median step of 3"


def gate(layer: int) -> str:
    return f"model.layers.{layer}.mlp.gate#topk"


def aligned(page: str = "align.html") -> Aligned:
    """Layer 1 is wrong, layer 2 is right."""
    wrong = NodeError("own", "2 of the bound", "prefill", "#node=WRONG&step=0")
    right = NodeError("ok", "0.2 of the bound", "decode 1", "#node=RIGHT&step=1")
    return Aligned("stock.h5", True, gate(1), {gate(1): wrong, gate(2): right}, page)


def timed(page: str = "timeline.html") -> Timed:
    """A millisecond for each call of decode, emulated."""
    phases = {"decode": PlanTimes((0.001,) * 7, STEPS, shown=True)}
    return Timed("run.json", "emulated", phases, page)
