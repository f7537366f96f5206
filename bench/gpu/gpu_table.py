"""Tables of the results: for people in a terminal, as markdown in docs/performance.md.

No number is typed by hand: what stands in the document is what the JSON of the runs says, and
the bars as gpu_results has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.gpu.beside_table import COLUMNS, beside_rows, row_key
from bench.gpu.gpu_results import BARS

Item = dict[str, Any]
TITLES = {
    "9b": "GLM-4-9B-0414, 40 layers",
    "air": "GLM-4.5-Air, 12 of 46 layers",
    "moe": "MoE layer",
}
FIRST_MARK, LAST_MARK = "<!-- measured -->", "<!-- end of what was measured -->"
BAR_COLUMNS = ("bar", "", "bar, scaled", "")
PEERS = ("eager", "compile", "max-autotune", "glmc", "glmc session", "glmc replay")


@dataclass(frozen=True)
class Section:
    """A table; ``note`` says how to read it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def merged(runs: Iterable[dict[str, Any]]) -> dict[str, dict[tuple[Any, ...], Item]]:
    """By card: the measurements of all runs, the later of two alike."""
    by_device: dict[str, dict[tuple[Any, ...], Item]] = {}
    for run in runs:
        newest = by_device.setdefault(run["machine"]["device"], {})
        for item in run["measurements"]:
            newest[(*row_key(item), item["peer"], item.get("stage"))] = item
    return by_device


def sections(runs: list[dict[str, Any]]) -> list[Section]:
    """Everything that was measured and checked, and last the runs that did."""
    tables: list[Section] = []
    for device, items in merged(runs).items():
        suffix = f", {device}"
        for section in (
            _steps(list(items.values()), "decode", "batch"),
            _steps(list(items.values()), "prefill", "tokens"),
            _steps(list(items.values()), "long", "context"),
            _beside(list(items.values())),
            _starts(list(items.values())),
            _moe(list(items.values())),
            *_stages(list(items.values())),
        ):
            if section.rows:
                tables.append(
                    Section(section.title + suffix, section.columns, section.rows, section.note)
                )
    return [*tables, _checks(runs), _machines(runs)]


def _machines(runs: list[dict[str, Any]]) -> Section:
    rows = []
    for run in runs:
        facts = run["machine"]
        rows.append(
            (
                facts["device"],
                f"{facts['bandwidth'] / 1e12:.2f} TB/s",
                f"{facts['rate'] / 1e12:.0f} TFLOP/s",
                f"torch {facts['torch']}, triton {facts['triton']}, "
                f"transformers {facts['transformers']}",
                f"`{run.get('command', '')}`",
            )
        )
    return Section("Runs", ("card", "plain read", "matrix product", "versions", "command"), rows)


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _bars(item: Item, factor: float, digits: int) -> tuple[str, str, str, str]:
    """The bar as it was set and whether it is met, then the same scaled to the card of the run."""
    said = {True: "met", False: "**missed**", None: ""}
    scaled = item.get("bar_ms")
    if scaled is None:  # nor have quick runs any
        return ("",) * 4
    allowed = BARS.get((item["model"], item["what"], item["size"]))
    return (
        _number(None if allowed is None else allowed * factor, digits),
        said[None if allowed is None else item["ms"] <= allowed],
        _number(scaled * factor, digits),
        said[item.get("met")],
    )


def _steps(items: list[Item], what: str, size_name: str) -> Section:
    """One row per model and size, one column per contender, in milliseconds."""
    items = [item for item in items if item["what"] == what]
    peers = [peer for peer in PEERS if any(item["peer"] == peer for item in items)]
    keys = dict.fromkeys((item["model"], item["size"]) for item in items)
    order = {model: place for place, model in enumerate(TITLES)}
    rows = []
    for model, size in sorted(keys, key=lambda key: (order.get(key[0], 9), key[1])):
        row = {
            item["peer"]: item for item in items if (item["model"], item["size"]) == (model, size)
        }
        ours = row.get("glmc", {})
        # Of the run that measured ours: another's may be of a card that reads faster.
        floor = (ours or next(iter(row.values())))["floor_ms"]
        rows.append(
            (
                str(TITLES.get(model, model)),
                str(size),
                *(_number(row[peer]["ms"]) if peer in row else "" for peer in peers),
                _number(floor),
                _percent(ours.get("share")),
                *_bars(ours, 1.0, 2),
                _experts(ours) if what == "decode" else "",
            )
        )
    ends = ("floor", "of the floor", *BAR_COLUMNS, "experts read")
    return Section(f"{what.capitalize()}, milliseconds", ("model", size_name, *peers, *ends), rows)


def _beside(items: list[Item]) -> Section:
    note = "Medians of rounds in turn; a ratio is the median of those of each round."
    return Section("Beside vLLM, milliseconds", COLUMNS, beside_rows(items), note)


def _starts(items: list[Item]) -> Section:
    """What comes before the steps of a decode, and the memory it takes."""
    rows = [
        (
            str(TITLES.get(item["model"], item["model"])),
            str(item["size"]),
            item["peer"],
            _number(item.get("compile_s"), 1),
            _number(item.get("load_s"), 1),
            _number(item["first_s"], 1),
            _number(item.get("peak_gib"), 2),
        )
        for item in items
        if item["what"] == "decode" and "first_s" in item
    ]
    columns = ("model", "batch", "", "compile", "load", "first step", "GiB beside weights")
    return Section(
        "Before the steps of a decode, seconds, and memory",
        columns,
        rows,
        "Hugging Face compiles in the first step. Ours has one session for all batches and for "
        "prefill.",
    )


def _experts(item: Item) -> str:
    if "experts_read" not in item:
        return ""
    return f"{item['experts_read']:.1f} of {item['experts_expected']:.1f} expected"


def _moe(items: list[Item]) -> Section:
    rows = [
        (
            item["what"],
            str(item["size"]),
            _number(item["experts_read"], 1),
            _number(item["ms"] * 1e3, 1),
            _number(item["floor_ms"] * 1e3, 1),
            _percent(item["share"]),
            *_bars(item, 1e3, 1),
        )
        for item in items
        if item["model"] == "moe"
    ]
    columns = ("call", "tokens", "experts read", "us", "floor", "of the floor", *BAR_COLUMNS)
    return Section("MoE layer, hidden 4096, width 1536, 128 experts, top-8", columns, rows)


def _stages(items: list[Item]) -> Iterable[Section]:
    keys = dict.fromkeys((item["model"], item["size"]) for item in items if item["what"] == "stage")
    for model, size in keys:
        mine = [item for item in items if (item["model"], item["size"]) == (model, size)]
        rows = [
            (
                item["stage"],
                str(item["calls"]),
                _number(item["launches"], 1),
                _number(item["bytes"] / 1e6, 2),
                _number(item["ms"] * 1e3, 1),
                _number(item["floor_ms"] * 1e3, 1),
                _percent(item["share"]),
                _number(item["ms"] * item["calls"], 3),
            )
            for item in mine
            if item["what"] == "stage"
        ]
        note = ""
        for item in mine:
            if item["what"] == "stages":
                note = (
                    f"All calls: {item['ms']:.2f} ms of {item['launches']:.0f} launches; "
                    f"the step: {item['whole_ms']:.2f} ms; floor {item['floor_ms']:.2f} ms."
                )
        columns = ("call", "calls", "launches", "MB", "us", "floor", "of the floor", "ms in all")
        title = f"Calls of a decode step, {TITLES.get(model, model)}, batch {size}"
        yield Section(title, columns, rows, note)


def _checks(runs: list[dict[str, Any]]) -> Section:
    """The later of two alike, as of measurements."""
    rows = []
    checks = {
        (run["machine"]["device"], item["name"]): item for run in runs for item in run["checks"]
    }
    for item in checks.values():
        numbers = {name: value for name, value in item.items() if name not in ("name", "passed")}
        text = ", ".join(f"{name} {_short(value)}" for name, value in numbers.items())
        rows.append((item["name"], "passed" if item["passed"] else "**FAILED**", text))
    for run in runs:
        rows += [(item["name"], "**ERROR**", item["error"][:200]) for item in run["errors"]]
        rows += [(item["name"], "left out", item["reason"]) for item in run["left_out"]]
    return Section("Checks", ("what", "", "numbers"), rows)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    return text if len(text) <= 160 else text[:157] + "..."


def markdown(tables: list[Section]) -> str:
    """The sections as markdown tables under headings of the third level."""
    lines: list[str] = []
    for section in tables:
        lines += [f"### {section.title}", ""]
        lines.append("| " + " | ".join(section.columns) + " |")
        lines.append("|" + "---|" * len(section.columns))
        lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in section.rows]
        lines.append("")
        if section.note:
            lines += [section.note, ""]
    return "\n".join(lines)


def between_marks(
    document: str, text: str, first_mark: str = FIRST_MARK, last_mark: str = LAST_MARK
) -> str:
    """The document with ``text`` between two marks of it; raises ValueError without them."""
    first, mark, rest = document.partition(first_mark)
    _, ended, last = rest.partition(last_mark)
    if not mark or not ended:
        raise ValueError(f"the document has no '{first_mark}' with a '{last_mark}' after it")
    return f"{first}{first_mark}\n\n{text.strip()}\n\n{last_mark}{last}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def show(tables: list[Section]) -> None:
    """The sections in a terminal; as markdown where rich is not installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(markdown(tables))
        return
    console = Console(width=170)
    for section in tables:
        table = Table(title=section.title, caption=section.note or None)
        for place, name in enumerate(section.columns):
            table.add_column(name, justify="left" if place == 0 else "right")
        for row in section.rows:
            table.add_row(*(cell.replace("**", "").replace("[", "\\[") for cell in row))
        console.print(table)
