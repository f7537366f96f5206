"""Reads an alignment by node from its page, or from what ``glmc align --json`` printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glmc.errors import UsageError
from glmc.observe.history.ids import nodes_of, place_of
from glmc.observe.history.record import History
from glmc.observe.page.embedded import (
    ALIGNMENT,
    WRITTEN_BY,
    content_of,
    embedded_data,
    is_page,
    json_object,
    relative_address,
)
from glmc.observe.page.measured import Aligned, NodeError
from glmc_runtime.format.records import misfit

BY_NODE = "by_node"
"""The key of an alignment's data that has what is read here."""


def read_aligned(path: Path, history: History, page: Path) -> Aligned:
    """The alignment as ``page``, that of the compile with this history, shows it.

    Raises UsageError for what is none, and for one of another compile.
    """
    content = content_of(path, ALIGNMENT)
    with_page = is_page(content)
    data = embedded_data(path, content, ALIGNMENT) if with_page else json_object(content)
    found = None if data is None else data.get(BY_NODE)
    if not isinstance(found, dict):
        raise _no_alignment(path, "it has no errors by node")
    aligned, sides = _aligned(path, found, relative_address(path, page) if with_page else "")
    of_this = (history.model, history.target) in sides
    if not of_this or not any(_is_known(history, node) for node in aligned.nodes):
        others = ", ".join(f"{model} for {target}" for model, target in sides if model)
        raise UsageError(
            "the alignment is of another compile",
            place=str(path),
            expected=f"a side that is {history.model} for {history.target or 'no target'}",
            found="values of no node of it" if of_this else others or "sides that name no model",
            remedy="align a record of this artifact",
        )
    return aligned


def _aligned(path: Path, found: dict[str, Any], page: str) -> tuple[Aligned, list[tuple[str, str]]]:
    try:
        nodes = {name: NodeError(**each) for name, each in found["nodes"].items()}
        aligned = Aligned(found["expected"], found["emulated"], found["first"], nodes, page)
        sides = [(str(model), str(target)) for model, target in found["sides"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_alignment(path, repr(error)[:160]) from error
    problem = misfit(aligned, Aligned, BY_NODE)
    if problem is not None:
        raise _no_alignment(path, problem)
    return aligned, sides


def _is_known(history: History, node: str) -> bool:
    place = place_of(history, node)
    return any(
        each.id == place.id for step in history.steps for each in nodes_of(step, place.layer)
    )


def _no_alignment(path: Path, found: str) -> UsageError:
    return UsageError(
        "the file is no alignment that this release reads",
        place=str(path),
        expected="the page of glmc align, or what its --json printed",
        found=found,
        remedy=WRITTEN_BY[ALIGNMENT],
    )
