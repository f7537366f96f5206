"""The table of ours beside vLLM: ratio, floor and bar of each row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.gpu.vllm_side import VLLM
from bench.models import GPU_MODELS

Item = dict[str, Any]
BESIDE = "beside "
WORKS = ("decode", "prefill", "ragged")
COLUMNS = ("model", "work", "vLLM", "glmc", "vLLM / glmc", "of each round", "floor",
           "of the floor", "bar: ratio", "", "bar: of the floor", "")  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """What is asked for of sizes from ``least`` to ``most``: how often vLLM's time, and which share
    of the floor."""

    most: int
    ratio: float
    share: float | None = None
    least: int = 1


_DENSE_9B = (Bar(1, 1.4, 0.85), Bar(16, 1.2, 0.78), Bar(64, 1.15, 0.73), Bar(128, 1.1, 0.65),
             Bar(256, 1.1, 0.56))  # fmt: skip
_DENSE_32B = (Bar(1, 1.1, 0.87), Bar(16, 1.08, 0.84), Bar(64, 1.05, 0.76))
_MOE = (Bar(1, 1.3, 0.83), Bar(8, 1.1, 0.85), Bar(64, 1.03, 0.92), Bar(128, 1.03, 0.82),
        Bar(256, 1.2, 0.72))  # fmt: skip
_MOE_PREFILL = (Bar(2048, 1.2, 0.57, least=2048), Bar(8192, 1.2, 0.74, least=2049))
_RAGGED = (Bar(1 << 20, 1.1),)
LEAST_LONG, LONG = 8192, Bar(1 << 20, 1.1)  # a decode at a long context has a bar of its own
BARS: Mapping[tuple[str, str], Sequence[Bar]] = {
    ("9b", "decode"): _DENSE_9B,
    ("32b", "decode"): _DENSE_32B,
    ("air", "decode"): _MOE,
    ("4.7", "decode"): _MOE,
    ("9b", "prefill"): (Bar(8192, 1.1, 0.84, least=2048),),
    ("32b", "prefill"): (Bar(8192, 1.03, 0.84, least=2048),),
    ("air", "prefill"): _MOE_PREFILL,
    ("4.7", "prefill"): _MOE_PREFILL,
    **{(key, "ragged"): _RAGGED for key in GPU_MODELS},
}


def bar_of(model: str, work: str, size: int) -> Bar | None:
    """The bar of a row at a context of 1024; None where nothing is asked for."""
    bars = BARS.get((model, work), ())
    return next((bar for bar in bars if bar.least <= size <= bar.most), None)


def bar_of_row(item: Item) -> Bar | None:
    """The bar of what was measured, which in a quick run has none."""
    if not item.get("bars", True):
        return None
    work = _work(item)
    if work == "decode" and item.get("context", 0) >= LEAST_LONG:
        return LONG
    return bar_of(item["model"], work, item["size"])


def beside_rows(items: Iterable[Item]) -> list[tuple[str, ...]]:
    """A row for each work of each model that both sides did."""
    return [_row(*pair) for pair in _pairs(items)]


def missed_rows(items: Iterable[Item]) -> list[tuple[str, ...]]:
    """A row for each ratio that misses its bar: the milliseconds that ours takes too many, its
    share of the floor, and the share at which the bar would be met beside this vLLM. More than all
    of it is a bar beyond the floor."""
    rows = []
    for ours, _ in _pairs(items):
        bar = bar_of_row(ours)
        if bar is not None and ours["ratio"] < bar.ratio:
            faster = bar.ratio / ours["ratio"]
            excess, share = ours["ms"] * (1 - 1 / faster), ours["share"]
            rows.append((*_named(ours), f"{excess:.3f}", f"{share:.0%}", f"{share * faster:.0%}"))
    return rows


def _pairs(items: Iterable[Item]) -> list[tuple[Item, Item]]:
    """Ours and the peer's of each work that both did, in the order of a table."""
    every = [item for item in items if str(item["what"]).startswith(BESIDE)]
    peers = {row_key(item): item for item in every if item["peer"] == VLLM}
    ours = [item for item in every if item["peer"] != VLLM and row_key(item) in peers]
    order = {key: place for place, key in enumerate(GPU_MODELS)}
    ours.sort(
        key=lambda item: (
            order[item["model"]],
            WORKS.index(_work(item)),
            item.get("context", 0),
            item["size"],
        )
    )
    return [(item, peers[row_key(item)]) for item in ours]


def row_key(item: Item) -> tuple[Any, ...]:
    """Which row a measurement of either side is of."""
    return item["model"], item["what"], item["size"], item.get("context"), has_graphs(item)


def has_graphs(item: Item) -> bool:
    """Whether ours had device graphs of prefill; true of decode steps, which do not say."""
    return bool(item.get("prefill_graphs", True))


def _work(item: Item) -> str:
    return str(item["what"]).removeprefix(BESIDE)


def _row(ours: Item, peer: Item) -> tuple[str, ...]:
    bar = bar_of_row(ours)
    share, ratio = ours["share"], ours["ratio"]
    return (
        *_named(ours),
        f"{peer['ms']:.2f}",
        f"{ours['ms']:.2f}",
        f"**{ratio:.2f}**",
        f"{ours['ratio_low']:.2f} to {ours['ratio_high']:.2f}",
        f"{ours['floor_ms']:.2f}",
        f"{share:.0%}",
        f"{bar.ratio:.2f}" if bar else "",
        _said(ratio, bar.ratio) if bar else "",
        f"{bar.share:.0%}" if bar and bar.share else "",
        _said(share, bar.share) if bar and bar.share else "",
    )


def _named(item: Item) -> tuple[str, str]:
    """Model and work, as a table says them."""
    size = item["size"]
    titles = {
        "decode": f"decode, batch {size}",
        "prefill": f"first token of {size}",
        "ragged": f"first tokens of {item.get('prompts')} prompts, {size} tokens",
    }
    return GPU_MODELS[item["model"]][2], titles[_work(item)] + _context(item) + _graphs(item)


def _context(item: Item) -> str:
    context = item.get("context")
    return "" if context in (None, 1024) else f", context {context}"


def _graphs(item: Item) -> str:
    return "" if has_graphs(item) else ", no device graphs"


def _said(value: float, wanted: float) -> str:
    return "met" if value >= wanted else "**missed**"
