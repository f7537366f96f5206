"""Ours beside vLLM as a document and a picture, from the JSON of bench.gpu.h200 alone.

    python -m bench.gpu.beside_doc 9b.json air.json --into docs/performance.md \\
        --picture docs/images/beside_vllm.png

The table stands between two marks of the document. Of two runs of the same row the later one on the
command line counts; both times of a row are of one run.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from bench.gpu.beside_table import (
    BESIDE,
    COLUMNS,
    WORKS,
    bar_of_row,
    beside_rows,
    has_graphs,
    missed_rows,
    row_key,
)
from bench.gpu.gpu_results import load_results
from bench.gpu.gpu_table import Section, between_marks, markdown
from bench.gpu.vllm_side import VLLM
from bench.models import GPU_MODELS, gpu_model

Item = dict[str, Any]
FIRST_MARK, LAST_MARK = "<!-- beside vllm -->", "<!-- end of beside vllm -->"
_WIDTH = 118  # of a line of a document
_AHEAD, _BEHIND, _BAR = "#1f3f77", "#c2602e", "#e0a800"


def newest(runs: Iterable[Item]) -> list[Item]:
    """The measurements beside vLLM, of each the last run's."""
    found: dict[tuple[Any, ...], Item] = {}
    for run in runs:
        for item in run["measurements"]:
            if str(item["what"]).startswith(BESIDE):
                found[(*row_key(item), item["peer"])] = item
    return list(found.values())


def row_name(item: Item) -> str:
    """Model, work, size, then the context of a decode, or that there were no device graphs."""
    model, what, size, context, graphs = row_key(item)
    words = [model, what.removeprefix(BESIDE), str(size)]
    if context is not None:
        words.append(str(context))
    return " ".join(words if graphs else [*words, "no-graphs"])


def named_row(text: str) -> str:
    """The name of a row, or its beginning: ``type=`` of an argument of argparse."""
    name = " ".join(text.split())
    models = "|".join(map(re.escape, GPU_MODELS))
    if not re.fullmatch(rf"({models}) ({'|'.join(WORKS)}) \d+( \d+)?( no-graphs)?", name):
        raise argparse.ArgumentTypeError(
            f"'{text}' is no row: expected a model of {', '.join(GPU_MODELS)}, a work of "
            f"{', '.join(WORKS)}, a size, and a context where there are several, such as "
            "'32b prefill 512' or 'air decode 16 8192'"
        )
    return name


def without(items: Iterable[Item], rows: Sequence[str]) -> list[Item]:
    """``items`` but those of ``rows``, each of which is a name, or a beginning that one name alone
    has.

    Raises ValueError for a row that is none of them, and for one that may be several.
    """
    items = list(items)
    names = dict.fromkeys(map(row_name, items))
    gone = set()
    for row in rows:
        meant = [row] if row in names else [each for each in names if each.startswith(f"{row} ")]
        if not meant:
            raise ValueError(f"no row {row} in these results")
        if len(meant) > 1:
            raise ValueError(f"'{row}' may be any of these rows: {', '.join(meant)}")
        gone.add(meant[0])
    return [item for item in items if row_name(item) not in gone]


def _missed(items: Sequence[Item]) -> list[Section]:
    """How far the rows that miss a ratio are from it; nothing where all are met."""
    rows = missed_rows(items)
    columns = ("model", "work", "ms too many", "of the floor", "the bar asks for")
    return [Section("Ratios that are missed", columns, rows)] if rows else []


def _experts(items: Sequence[Item]) -> list[Section]:
    """What the routers of ours chose in the rows; nothing where no model has any."""
    found = [item for item in items if item["peer"] != VLLM and item.get("experts_read")]
    found.sort(key=lambda item: (item["model"], item["context"], item["size"]))
    rows = [
        (
            GPU_MODELS[item["model"]][2],
            str(item["size"]),
            str(item["context"]),
            f"{item['experts_read']:.1f}",
            f"{item['experts_expected']:.1f}",
            f"{item['share']:.0%}",
            f"{_share_read(item):.0%}",
        )
        for item in found
    ]
    columns = ("model", "batch", "context", "read", "independent choices", "of the floor",
               "of the floor by what was read")  # fmt: skip
    note = (
        "Read: the mean over the layers of one step before the rounds, whose tokens differ. The "
        "floor of the other tables is by independent choices."
    )
    title = "Distinct experts that a layer of ours reads"
    return [Section(title, columns, rows, fill(note, _WIDTH))] if rows else []


def _share_read(item: Item) -> float:
    """The share of a floor that has the bytes of the experts that were read."""
    model = gpu_model(item["model"], quick=not item.get("bars", True))
    batch, context = item["size"], item["context"]
    read = model.step_bytes_read(batch, context, item["experts_read"])
    return float(item["share"] * read / model.step_bytes(batch, context))


def tables_of(runs: Sequence[Item], items: Iterable[Item]) -> list[Section]:
    """The rows, those that miss a ratio, what routers read, and the runs that they are of."""
    items = list(items)
    rows = beside_rows(items)
    met = sum(row[-3] == "met" for row in rows), sum(bool(row[-4]) for row in rows)
    note = (
        f"Of {len(rows)} rows {met[1]} have a bar for the ratio, of which {met[0]} are met. "
        "Medians of rounds in turn; a ratio is the median of those of each round."
    )
    return [
        Section("Decode steps and first tokens, milliseconds", COLUMNS, rows, fill(note, _WIDTH)),
        *_missed(items),
        *_experts(items),
        Section(
            "Runs beside vLLM",
            ("model", "plain read", "product", "vLLM ready", "glmc ready", "command"),
            [row for run in runs for row in _run_rows(run)],
            fill(
                "Ready: seconds until a first step can be made; ours compiles and captures device "
                "graphs, over weights that were made before, vLLM begins with its process.",
                _WIDTH,
            ),
        ),
    ]


def _run_rows(run: Item) -> list[tuple[str, ...]]:
    machine = run["machine"]
    return [
        (
            GPU_MODELS[key][2],
            f"{machine['bandwidth'] / 1e12:.2f} TB/s",
            f"{machine['rate'] / 1e12:.0f} TFLOP/s",
            f"{seconds:.0f} s",
            f"{run['glmc_start_s'][key]:.0f} s",
            f"`{run['command']}`",
        )
        for key, seconds in run.get("vllm_start_s", {}).items()
    ]


def draw(items: Iterable[Item], output: Path) -> None:
    """Write the picture: a panel for each model, a bar for each ratio, a line at its bar. Raises
    ValueError where there is nothing."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    items = [item for item in items if item["peer"] != VLLM]
    panels = [(key, _ordered(items, key)) for key in GPU_MODELS]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        raise ValueError("no rows beside vLLM in these results")
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(3.4 * len(panels), 5.2), squeeze=False, layout="constrained"
    )
    for axis, (key, rows) in zip(axes[0], panels, strict=True):
        places = range(len(rows))
        ratios = [item["ratio"] for item in rows]
        axis.barh(places, ratios, color=[_AHEAD if each >= 1 else _BEHIND for each in ratios])
        for place, item in zip(places, rows, strict=True):
            axis.annotate(f"{item['ratio']:.2f}", (0.02, place), color="white", va="center",
                          fontsize=8)  # fmt: skip
            bar = bar_of_row(item)
            if bar is not None:
                axis.plot([bar.ratio] * 2, [place - 0.4, place + 0.4], color=_BAR, linewidth=2)
        axis.set_yticks(list(places), [_label(item) for item in rows], fontsize=8)
        axis.invert_yaxis()
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set_xlim(0, 1.5)
        axis.set_xlabel("time of vLLM / ours")
        axis.set_title(GPU_MODELS[key][2], fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    pyplot.close(figure)


def _ordered(items: Sequence[Item], key: str) -> list[Item]:
    works = [BESIDE + name for name in WORKS]
    mine = [item for item in items if item["model"] == key]
    return sorted(
        mine, key=lambda item: (works.index(item["what"]), item.get("context", 0), item["size"])
    )


def _label(item: Item) -> str:
    graphs = "" if has_graphs(item) else ", no graphs"
    if item["what"] == BESIDE + "ragged":
        return f"{item['prompts']} prompts{graphs}"
    if item["what"] == BESIDE + "prefill":
        return f"first token of {item['size']}{graphs}"
    context = item.get("context", 0)
    return f"decode {item['size']}" + (f" at {context // 1024} K" if context > 1024 else "")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, help="the document; without, the table is printed")
    parser.add_argument("--picture", type=Path)
    parser.add_argument(
        "--without",
        type=named_row,
        action="append",
        default=[],
        metavar="ROW",
        help="a row to leave out: '32b prefill 512', or 'air decode 16 8192' of several contexts",
    )
    options = parser.parse_args(words)
    runs = load_results(options.results)
    try:
        items = without(newest(runs), options.without)
        text = markdown(tables_of(runs, items))
        if options.into is None:
            print(text)
        else:
            document = options.into.read_text("utf-8")
            document = between_marks(document, text, FIRST_MARK, LAST_MARK)
            options.into.write_text(document, "utf-8")
        if options.picture is not None:
            draw(items, options.picture)
    except ValueError as error:
        print(f"beside_doc: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
