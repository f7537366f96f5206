"""Who watches the passes of a traced program: the dump."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

from glmc.dynamo.normal_form import Traced
from glmc.dynamo.options import DynamoOptions
from glmc.ir.program import Program

_GRAPHS = count()


def watcher(options: DynamoOptions, traced: Traced) -> Callable[[str, Program], None]:
    """What is called with the program after each pass."""
    if options.dump is None:
        return lambda name, program: None
    folder = Path(options.dump) / f"graph_{next(_GRAPHS):02d}"
    folder.mkdir(parents=True, exist_ok=True)
    steps = count(1)
    (folder / "00_normal.txt").write_text(_text(traced.program), encoding="utf-8")

    def watch(name: str, program: Program) -> None:
        path = folder / f"{next(steps):02d}_{name}.txt"
        path.write_text(_text(program), encoding="utf-8")

    return watch


def _text(program: Program) -> str:
    return str(program.graph) + "\n"
