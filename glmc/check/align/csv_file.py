"""An alignment as a csv: torch_xray's columns first, in its order and spelling, then ours.

The eight are documented in vLLM-Kunlun, docs/source/developer_guide/evaluation/accuracy/
accuracy_kernel.md, without what they mean. Here ``Status`` is ``Fail`` or nothing; ``IsClose (%)``
is the share of elements within the tolerance of torch.testing for the coarser dtype; ``Max Err
(t)`` is the largest absolute error, and ``GtNum`` counts the elements that are not equal. What is
not known is an empty cell.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glmc.check.align.result import AlignedValue, Alignment, Difference, Verdict
from glmc.errors import UsageError
from glmc.plain_file import begins_with

XRAY_COLUMNS = (
    "Index",
    "Status",
    "Module (Bench/Target)",
    "Cosine",
    "RMSE",
    "IsClose (%)",
    "Max Err (t)",
    "GtNum",
)
_HEAD = ",".join(XRAY_COLUMNS[:3])
_FAILED = (Verdict.FAIL, Verdict.OWN)
_Cell = Callable[[AlignedValue], Any]

OURS: dict[str, _Cell] = {
    "Verdict": lambda value: value.verdict.value,
    "Reason": lambda value: value.reason,
    "Step": lambda value: value.step,
    "Phase": lambda value: value.phase,
    "Layer": lambda value: value.layer,
    "Also": lambda value: " ".join(value.also),
    "Paired By": lambda value: value.paired_by,
    "Dtype": lambda value: value.dtype,
    "Shape": lambda value: "x".join(map(str, value.shape)),
    "Node": lambda value: value.node,
    "Op": lambda value: value.op,
    "Function": lambda value: value.function,
    "Source": lambda value: value.source,
    "Passes": lambda value: " ".join(value.passes),
    "Of Allowed": lambda value: value.share,
    "Max Rel Err": lambda value: value.total.largest_relative,
    "Magnitude": lambda value: value.total.magnitude,
    "Bench NaN": lambda value: value.total.expected_nan,
    "Target NaN": lambda value: value.total.actual_nan,
    "Bench Inf": lambda value: value.total.expected_inf,
    "Target Inf": lambda value: value.total.actual_inf,
    "ULP Counts": lambda value: " ".join(map(str, value.total.ulps)),
    "Own Max Err": lambda value: value.own and value.own.largest_absolute,
    "Own RMSE": lambda value: value.own and value.own.rmse,
    "Own Bound": lambda value: value.bound,
    "Numerics": lambda value: value.numerics,
    "Inherited Max Err": lambda value: value.inherited and value.inherited.largest_absolute,
    "Inherited RMSE": lambda value: value.inherited and value.inherited.rmse,
    "Same Experts": lambda value: value.router and value.router.agreeing,
    "Routed Tokens": lambda value: value.router and value.router.tokens,
    "Largest Margin": lambda value: (
        max(value.router.margins, default=None) if value.router and value.router.margins else None
    ),
    "Dealt": lambda value: value.dealt,
    "Ranks Apart": lambda value: value.ranks_apart,
}
"""Our columns; ``Emulated`` follows them."""


def require_csv_place(path: Path) -> None:
    """Raise :class:`UsageError` for a file that exists and is no csv of an alignment: a record's
    summary is one letter away."""
    if path.exists() and not begins_with(path, _HEAD, len(_HEAD) + 3):
        raise UsageError(
            "the file exists and is no csv of an alignment",
            place=str(path),
            expected="a new file, or one that glmc align wrote",
            remedy="--csv another.csv",
        )


def write_csv(path: Path, alignment: Alignment) -> None:
    """Write a row for each value; raises :class:`UsageError` where the file can't be written."""
    try:
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*XRAY_COLUMNS, *OURS, "Emulated"])
            for index, value in enumerate(alignment.values):
                cells = [*_xray(index, value), *(cell(value) for cell in OURS.values())]
                writer.writerow([*map(_text, cells), alignment.emulated])
    except OSError as error:
        raise UsageError(
            f"the csv can't be written: {error.strerror}", place=str(path), remedy="--csv FILE"
        ) from error


def _xray(index: int, value: AlignedValue) -> list[Any]:
    total, known = value.total, bool(value.total.ulps)
    name = value.name
    if value.other_name and value.other_name != name:
        name = f"{name} / {value.other_name}"
    status = "Fail" if value.verdict in _FAILED else ""
    close = 100 * total.close
    return [
        index,
        status,
        name,
        total.cosine,
        total.rmse,
        close,
        total.largest_absolute,
        _unequal(total) if known else None,
    ]


def _unequal(total: Difference) -> int:
    return total.elements - total.ulps[0]


def _text(cell: Any) -> Any:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    return f"{cell:.7g}" if isinstance(cell, float) else cell
