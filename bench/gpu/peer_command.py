"""A command that measures models beside vLLM: its rows as JSON, and their table for a page."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.gpu.gpu_table import Section, markdown

Row = Mapping[str, Any]


def measure_and_write(
    name: str,
    words: Sequence[str],
    options: argparse.Namespace,
    rows_of: Callable[[argparse.Namespace, str, Path], Iterable[Row]],
    table_of: Callable[[Iterable[Row]], Section],
) -> None:
    """Write ``options.output`` with the command and the rows of each of ``options.models``, which
    ``rows_of`` measures in a folder of its own, and print their table."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for key in options.models for row in rows_of(options, key, Path(folder) / key)]
    command = f"python -m bench.gpu.{name} {shlex.join(words)}"
    options.output.write_text(json.dumps({"command": command, "rows": rows}), encoding="utf-8")
    print(markdown([table_of(rows)]))
