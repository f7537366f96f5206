"""A value as it is compared: what two right sides may have in another place is put in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from glmc.check.align.routing import IDS, gate_of, spread_by_expert
from glmc_runtime.format.cache import CacheKey


@dataclass(frozen=True)
class Shown:
    """The values that one call completes. ``caches`` are the nodes that are caches, ``slots`` where
    the step writes to them: of a cache the tokens of the step are compared."""

    nodes: tuple[Node, ...]
    caches: Mapping[Node, CacheKey]
    slots: Tensor

    def of(self, node: Node, side: Mapping[Node, Tensor]) -> Tensor:
        """The value of a node where ``side`` has all of them: experts in ascending order, weights
        by expert, and of a cache [tokens, heads, head_dim]."""
        value = side[node]
        if node in self.caches:
            return rows_of_cache(value, self.slots)
        gate = gate_of(node)
        ids = self.ids if gate is not None else None
        if gate is None or ids is None:
            return value
        if node.args[1] == IDS:
            return value.long().sort(-1)[0]
        return spread_by_expert(value, side[ids], gate)

    @property
    def ids(self) -> Node | None:
        """The ids of a router among the values."""
        routed = (node for node in self.nodes if gate_of(node) is not None)
        return next((node for node in routed if node.args[1] == IDS), None)


def rows_of_cache(cache: Tensor, slots: Tensor) -> Tensor:
    """What is in the slots of a cache [blocks, heads, tokens, head_dim]."""
    size = cache.shape[2]
    rows = slots.to(cache.device)
    return cache[rows // size, :, rows % size]


def beside_slots(cache: Tensor, slots: Tensor) -> Tensor:
    """The cache with zeros in the slots: what a step must leave alone."""
    size = cache.shape[2]
    rest = cache.clone()
    rest[slots // size, :, slots % size] = 0
    return rest
