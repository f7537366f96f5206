"""Buffer liveness: which values a storage has had, and whether a later node reads one of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from torch.fx import Node

from glmc.lowering.in_place import whole
from glmc_runtime.format.plan import (
    Argument,
    BufferArgument,
    CacheArgument,
    InputArgument,
    storage_of,
)

Storage = BufferArgument | CacheArgument | InputArgument


class Liveness:
    """The values in each storage, for a walk over ``nodes`` in their order."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._order = {node: index for index, node in enumerate(nodes)}
        self._stored: dict[Argument, list[Node]] = defaultdict(list)

    def store(self, node: Node, argument: Argument) -> None:
        """The value of ``node`` is in the storage of ``argument``, unless that is a weight."""
        storage = storage_of(argument)
        if isinstance(storage, (BufferArgument, CacheArgument, InputArgument)):
            self._stored[whole(storage)].append(node)

    def read_after(self, node: Node, argument: Argument) -> bool:
        """Whether a node after ``node`` reads a value that is in the storage of ``argument``."""
        now, stored = self._order[node], self._stored.get(whole(storage_of(argument)), ())
        return any(self._order[user] > now for each in stored for user in each.users)
