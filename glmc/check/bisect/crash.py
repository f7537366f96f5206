"""A step that raises: the match at which it does, and the smallest program that shows it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch.fx import Node

from glmc.check.bisect.cut import cuts, shrunk
from glmc.check.bisect.finding import commented
from glmc.check.bisect.rebuild import builder_text, rebuilt
from glmc.ir.program import Program
from glmc.passes.base import AnchorPass, Pass

_TEXT = """
import operator

import torch

import glmc.ir.ops  # the glmc:: ops
from glmc.check.bisect.rebuild import Builder
from glmc.config import CompileOptions
from glmc.ir.program import ModelShape
from glmc.pipeline.selection import selection

{program}
options = {options}
(one,) = (each for each in selection(options).passes if each.name == {name!r})
one.run(program)  # raises {error}
"""


def raised_by(run: Callable[[], Any], error: Exception) -> bool:
    """Whether ``run`` raises an error of the same class in the same line of code."""
    try:
        run()
    except type(error) as again:
        return _line(again) == _line(error)
    except Exception:  # noqa: BLE001 - another error is another fault, and the search goes on
        return False
    return False


def _line(error: Exception) -> tuple[str, int] | None:
    frames = traceback.extract_tb(error.__traceback__)
    return (frames[-1].filename, frames[-1].lineno or 0) if frames else None


def anchor_of(before: Program, rewrite: Pass, error: Exception) -> str | None:
    """The id of the anchor at which an AnchorPass raises; None for other passes."""
    if not isinstance(rewrite, AnchorPass):
        return None
    last: list[str] = []

    def match(anchor: Node, program: Program) -> Any:
        last.append(anchor.meta["id"])
        return rewrite.match(anchor, program)

    watched = replace(rewrite, match=match)
    return last[-1] if raised_by(lambda: watched.run(before.copy()), error) and last else None


def smallest(
    before: Program, rewrite: Pass, anchor: str | None, error: Exception
) -> Program | None:
    """The smallest piece around the anchor on which the pass still raises, with fixed sizes.

    None when it raises on no such piece.
    """
    nodes = {node.meta["id"]: node for node in before.graph.nodes if "id" in node.meta}
    pieces = cuts(before, nodes[anchor]) if anchor in nodes else iter((before,))

    def holds(piece: Program) -> bool:
        return raised_by(lambda: rewrite.run(piece.copy()), error) and raised_by(
            lambda: rewrite.run(rebuilt(piece)), error
        )

    shortest = next(filter(holds, pieces), None)
    return None if shortest is None else shrunk(shortest, holds)


def crash_repro(
    title: Sequence[str], piece: Program, rewrite: Pass, options: str, error: Exception
) -> str:
    """The text of ``repro.py`` for a pass that raises. ``options`` choose the same passes."""
    return commented(title) + _TEXT.format(
        program=builder_text(piece), options=options, name=rewrite.name, error=type(error).__name__
    )
