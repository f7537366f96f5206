"""What a run of the decode benchmark found, as two tables: speed, and start with memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.table import Table

from bench.cpu.paired import Measured, Middle, Use
from bench.models import ITEMSIZE, BenchModel

_ITEMSIZE = {"float32": 4, "bfloat16": 2}
_PARTS = ("python", "import", "load", "hashes", "first")


def speeds(
    model: BenchModel, found: Sequence[Measured], base: str, dtype: str, title: str
) -> Table:
    """Tokens a second, how many times as fast ``base`` is, and the share of a plain read."""
    table = Table(title=title)
    columns = ("work", "", "tokens/s", "spread", f"{base} / it", "spread", "of read", "GB/s")
    for column in columns:
        table.add_column(column, justify="right")
    for each in found:
        read = Middle.of([bytes_read / 1e9 for bytes_read in each.reads])
        for number, name in enumerate(each.seconds):
            rate = each.rates(name)
            ratio = each.ratios(name, base) if base in each.seconds and name != base else None
            share = ""
            if each.work.kind == "decode":
                step = model.weight_bytes(each.work.size) * _ITEMSIZE[dtype] / ITEMSIZE
                share = f"{each.share(name, step):.0%}"
            table.add_row(
                each.work.title if number == 0 else "",
                name,
                f"{rate.median:.1f}",
                f"{rate.low:.1f} to {rate.high:.1f}",
                f"{ratio.median:.2f}" if ratio else "",
                f"{ratio.low:.2f} to {ratio.high:.2f}" if ratio else "",
                share,
                f"{read.median:.1f} ({read.low:.1f} to {read.high:.1f})" if number == 0 else "",
                end_section=number == len(each.seconds) - 1,
            )
    return table


def starts(took: Mapping[str, Sequence[Mapping[str, Any]]], uses: Mapping[str, Use]) -> Table:
    """Seconds from start to first token, in parts, and MiB: medians of all starts, and the most
    that was seen of the process that went on."""
    table = Table(title="seconds from start to first token; MiB of each process")
    for column in ("", *_PARTS, "without imports", "all", "low to high"):
        table.add_column(column, justify="right")
    for column in ("first: peak", "anonymous", "run: peak", "anonymous", "while idle"):
        table.add_column(column, justify="right")
    for name, each in took.items():
        totals = [one["total"] for one in each]
        own = [one["total"] - one["python"] - one["import"] for one in each]
        use = uses[name]
        table.add_row(
            name,
            *(_seconds([one[part] for one in each]) for part in _PARTS),
            f"{median(own):.1f}",
            f"{median(totals):.1f}",
            f"{min(totals):.1f} to {max(totals):.1f}",
            *(f"{median([one[key] for one in each]):.0f}" for key in ("VmHWM", "RssAnon")),
            *(f"{most:.0f}" for most in (use.peak, use.anonymous)),
            f"{use.spun / use.waited:.1%}" if use.waited else "",
        )
    return table


def _seconds(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.1f}" if known else "-"


def versions(took: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """What each side is."""
    return "; ".join(f"{name}: {each[0]['version']}" for name, each in took.items())
