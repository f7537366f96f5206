"""An alignment by node: the worst value of each, for the page of the compile."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from glmc.check.align.heat_map import addresses, error_of, step_title
from glmc.check.align.result import AlignedValue, Alignment
from glmc.check.align.summary import worst_first


def by_node(alignment: Alignment) -> dict[str, Any]:
    """Plain data, as :func:`glmc.observe.page.aligned.read_aligned` reads it. ``sides`` are model
    and target of each, ``first`` the node of the first divergence, '' without one; ``address`` is
    that of the value's cell on the page."""
    nodes: dict[str, list[tuple[AlignedValue, str]]] = defaultdict(list)
    for value, address in zip(alignment.values, addresses(alignment), strict=True):
        if value.node:
            nodes[value.node].append((value, address))
    first = alignment.first
    return {
        "sides": sides(alignment),
        "expected": alignment.expected,
        "emulated": alignment.emulated,
        "first": "" if first is None else first.node,
        "nodes": {node: _worst(some) for node, some in nodes.items()},
    }


def sides(alignment: Alignment) -> list[tuple[str, str]]:
    """Model and target of each side, '' where it does not say."""
    return [
        (str(facts.get("model") or ""), str(facts.get("target") or "")) for facts in alignment.facts
    ]


def _worst(some: list[tuple[AlignedValue, str]]) -> dict[str, str]:
    (worst, *_) = worst_first(value for value, _ in some)
    address = next(address for value, address in some if value is worst)
    return {
        "verdict": worst.verdict.value,
        "error": error_of(worst).words,
        "step": step_title(worst),
        "address": address,
    }
