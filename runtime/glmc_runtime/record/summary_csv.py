"""The summary beside a record: a line for each tensor, without its elements.

The first columns are those of torch_xray's ``summary``; the others are ours. Source:
vLLM-Kunlun, docs/source/developer_guide/evaluation/accuracy/accuracy_kernel.md.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from glmc_runtime.record.tensors import Statistics

OF_XRAY = ("Index", "Step", "Rank", "Module", "Min", "Max", "Mean", "Std")
OURS = ("dtype", "shape", "nan", "inf", "node")


def summary_path(record: Path) -> Path:
    """``run_summary.csv`` beside ``run.h5``."""
    return record.with_name(f"{record.stem}_summary.csv")


def is_summary(path: Path) -> bool:
    """Whether a file is a summary, and so one that may be written over."""
    if not path.is_file():
        return False
    header = ",".join(OF_XRAY).encode()
    with path.open("rb") as file:
        return file.read(len(header)) == header


@dataclass(frozen=True)
class SummaryLine:
    """What is said of a tensor; ``node`` is '' where no program of ours computed it."""

    dtype: str
    shape: tuple[int, ...]
    statistics: Statistics
    node: str


class SummaryCsv:
    """Written line by line."""

    def __init__(self, path: Path, rank: int) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow((*OF_XRAY, *OURS))
        self._rank, self._index = rank, 0

    def __enter__(self) -> SummaryCsv:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, step: int, key: str, line: SummaryLine) -> None:
        """The line of one key of a tensor."""
        found = line.statistics
        numbers = (found.minimum, found.maximum, found.mean, found.std)
        others = (line.dtype, list(line.shape), found.nan, found.inf, line.node)
        self._rows.writerow((self._index, step, self._rank, key, *numbers, *others))
        self._index += 1
