"""Which node of a device graph each record of one of its launches is.

Records come in the order in which they began. A node can begin only after those that it waits for,
so in that order each record is one of the nodes that wait for nothing any more; which one, its
function and launch sizes say. Where they don't, nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Union

from glmc_runtime.replay.timeline.graph_nodes import KERNEL, GraphNode
from glmc_runtime.replay.timeline.kineto import DeviceWork
from glmc_runtime.replay.timeline.timer import Place

Matched = Union[list[tuple[Place, DeviceWork]], str]


def matched(nodes: Sequence[GraphNode], work: Sequence[DeviceWork]) -> Matched:
    """What each record of a launch was for, or why that can't be said.

    Copies and fills are left out where the profiler has not recorded each.
    """
    expected, recorded = _count(nodes, KERNEL), _count(work, KERNEL)
    if expected != recorded:
        return f"{recorded} kernels recorded, {expected} expected"
    kinds = {node.kind for node in nodes if node.kind}
    kinds = {kind for kind in kinds if _count(nodes, kind) == _count(work, kind)}
    records = [record for record in work if record.kind in kinds]
    if any(node.after is None for node in nodes) and len({each.stream for each in records}) > 1:
        return "its kernels ran on several streams, and the driver doesn't say which wait for which"
    found: list[tuple[Place, DeviceWork]] = []
    waiting = _Waiting(nodes, kinds)
    for number, record in enumerate(records):
        alike = [each for each in waiting.ready() if is_alike(nodes[each], record)]
        if not alike:
            names = ", ".join(_shown(nodes[each]) for each in waiting.ready()) or "nothing"
            return f"record {number} of {len(records)} is {_shown(record)}, expected {names}"
        if len({nodes[each].place for each in alike}) > 1:
            return f"several calls run {record.name[:80]} beside each other"
        found.append((nodes[alike[0]].place, record))
        waiting.begin(alike[0])
    return found


def is_alike(node: GraphNode, record: DeviceWork) -> bool:
    """Whether a record can be of a node: function and launch sizes, as far as both are known."""
    if node.kind != record.kind:
        return False
    for mine, its in ((node.grid, record.grid), (node.block, record.block)):
        if mine is not None and its is not None and mine != its:
            return False
    return node.name is None or _stem(record.name) in node.name


class _Waiting:
    """Nodes that have not begun, and of those the ones that can."""

    def __init__(self, nodes: Sequence[GraphNode], kinds: set[str]) -> None:
        self._recorded = [node.kind in kinds for node in nodes]
        self._missing = [0] * len(nodes)
        self._followers: list[list[int]] = [[] for _ in nodes]
        for number, node in enumerate(nodes):
            # Nodes of one stream, where the driver doesn't say: each waits for the one before it.
            before = node.after if node.after is not None else range(max(number - 1, 0), number)
            self._missing[number] = len(before)
            for each in before:
                self._followers[each].append(number)
        self._ready: list[int] = []
        self._add([number for number, count in enumerate(self._missing) if not count])

    def ready(self) -> list[int]:
        return sorted(self._ready)

    def begin(self, number: int) -> None:
        self._ready.remove(number)
        self._add(self._freed(number))

    def _add(self, numbers: list[int]) -> None:
        """Nodes that can begin; what leaves no record is passed over."""
        while numbers:
            number = numbers.pop()
            if self._recorded[number]:
                self._ready.append(number)
            else:
                numbers += self._freed(number)

    def _freed(self, number: int) -> list[int]:
        for each in self._followers[number]:
            self._missing[each] -= 1
        return [each for each in self._followers[number] if not self._missing[each]]


@cache
def _stem(name: str) -> str:
    """Of a demangled name, the part that the mangled one has as well: the function's own."""
    plain, depth = "", 0
    for letter in name.replace("(anonymous namespace)::", ""):
        depth -= letter == ">"
        plain += letter if depth <= 0 and letter not in "<>" else ""
        depth += letter == "<"
    stem = plain.partition("(")[0].split(" ")[-1].rpartition("::")[2]
    return "" if stem.startswith("operator") else stem


def _count(records: Sequence[GraphNode] | Sequence[DeviceWork], kind: str) -> int:
    return sum(record.kind == kind for record in records)


def _shown(work: GraphNode | DeviceWork) -> str:
    """In a message."""
    return f"{(work.name or work.kind)[:80]} {work.grid or ''}{work.block or ''}"
