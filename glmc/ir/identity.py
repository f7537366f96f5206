"""Value identity: which values of the captured model a node of a later program reads as.

A node's id says what the node was made of, not what its value is: a fused norm goes by the id of
the ``rsqrt`` in it. What the value is stands in ``meta["identity"]``. A rewrite hands it from a
node to what takes its place, a program that is rebuilt from the old nodes to the new ones; nothing
else may copy it. A node without one is a value that the captured model does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import dropwhile
from math import prod
from typing import Any

from torch.fx import Graph, Node

from glmc.ir import match as m
from glmc.ir.layout import Layout
from glmc_runtime.format.tensor_key import TensorKey

IDENTITY = "identity"
SUMMAND = "summand"
"""How a value is dealt of which each rank has a summand."""
Share = str | tuple[int, Layout]
"""How a value is dealt to ranks: ``SUMMAND``, or an axis and how it is cut."""


@dataclass(frozen=True)
class Part:
    """Columns ``start`` to ``stop``, not counted, of the last dimension are a captured value."""

    start: int
    stop: int
    captured: tuple[str, ...]
    keys: tuple[TensorKey, ...]


@dataclass(frozen=True)
class Identity:
    """``captured`` are ids of the captured program, whose values are equal, packed by token;
    ``keys`` the tensors of modules that these are, ``parts`` values that are columns of this.
    ``results`` are, of a node with several, those that no node reads any more, by index. Where the
    value is ``dealt`` to ranks, all this is of what they have together."""

    captured: tuple[str, ...] = ()
    keys: tuple[TensorKey, ...] = ()
    parts: tuple[Part, ...] = ()
    results: tuple[tuple[int, Identity], ...] = ()
    dealt: Share | None = None

    def joined(self, other: Identity) -> Identity:
        """Both, this one first."""
        return Identity(
            _joined(self.captured, other.captured),
            _joined(self.keys, other.keys),
            _joined(self.parts, other.parts),
            _joined(self.results, other.results),
            self.dealt if other.dealt is None else other.dealt,
        )

    def result(self, index: int) -> Identity:
        """That of a result that no node reads."""
        found = _NONE
        for place, identity in self.results:
            found = found.joined(identity) if place == index else found
        return found


_NONE = Identity()


def _joined(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys((*first, *second))) if second else first


def identity_of(node: Node) -> Identity:
    """The identity of a node; an empty one where it has none."""
    identity: Identity = node.meta.get(IDENTITY, _NONE)
    return identity


def begin(graph: Graph, keys: Mapping[Node, Iterable[TensorKey]]) -> None:
    """Give each call of a captured graph its own value's identity, with the ``keys`` of it."""
    for node in graph.nodes:
        if node.op == "call_function":
            node.meta[IDENTITY] = Identity((node.meta["id"],), tuple(keys.get(node, ())))


def without_identity(meta: Mapping[str, Any]) -> dict[str, Any]:
    """``meta`` for another value than that of its node."""
    return {key: value for key, value in meta.items() if key not in (IDENTITY, "val")}


def hand_down(old: Node, new: Node) -> None:
    """``new`` reads as ``old`` did."""
    _add(new, identity_of(old))


def deal(node: Node, share: Share) -> None:
    """What ``node`` is, the ranks have together: each has a share."""
    _add(node, Identity(dealt=share))


def hand_down_columns(old: Node, new: Node, start: int, stop: int) -> None:
    """Columns ``start`` to ``stop`` of ``new`` read as ``old`` did."""
    known = identity_of(old)
    if known is not _NONE:
        _add(new, Identity(parts=(Part(start, stop, known.captured, known.keys),)))


def hand_up(view: Node) -> None:
    """A node is about to be dropped: what its operand is by it, see :func:`seen_in_operand`."""
    seen = seen_in_operand(view, identity_of(view))
    if seen is not None:
        _add(view.all_input_nodes[0], seen)


def seen_in_operand(view: Node, identity: Identity) -> Identity | None:
    """What the ``identity`` of a view, or of one of several results, says of its operand; None for
    anything else.

    The same numbers of each token in another shape are the same tensors of modules; a slice along
    the last dimension is columns, but of what ranks have together where it is dealt.
    """
    if identity is _NONE or not view.args or not isinstance(view.args[0], Node):
        return None
    if m.is_op(view, "getitem"):
        return Identity(results=((int(view.args[1]), identity),))  # type: ignore[arg-type]
    if m.is_op(view, *m.SHAPES):
        numbers = _numbers_of_token(view)
        alike = numbers is not None and numbers == _numbers_of_token(view.args[0])
        return Identity(keys=identity.keys) if alike else None
    columns = _columns(view) if m.is_op(view, "aten.slice") else None
    if columns is None or identity.dealt is not None:
        return None
    start, stop = columns
    own = Part(start, stop, identity.captured, identity.keys)
    parts = [
        replace(each, start=start + each.start, stop=start + each.stop) for each in identity.parts
    ]
    return Identity(parts=tuple(part for part in (own, *parts) if part.captured or part.keys))


def _add(node: Node, identity: Identity) -> None:
    if identity is not _NONE:
        node.meta[IDENTITY] = identity_of(node).joined(identity)


def _numbers_of_token(node: Node) -> int | None:
    """How many numbers a token has in a value whose first dimensions, and no others, follow the
    step; None for any other value."""
    sizes = m.shape(node)
    fixed = list(dropwhile(lambda size: not m.is_static(size), sizes))
    if len(fixed) == len(sizes) or not all(map(m.is_static, fixed)):
        return None
    return prod(map(int, fixed))


def _columns(node: Node) -> tuple[int, int] | None:
    """The bounds of a slice along the last dimension, as ``canonical`` writes one."""
    if len(node.args) != 4 or node.kwargs:
        return None
    source, axis, start, stop = node.args
    sizes = m.shape(source)
    if axis != len(sizes) - 1 or not isinstance(start, int) or not isinstance(stop, int):
        return None
    width = sizes[-1]
    return (start, stop) if isinstance(width, int) and 0 <= start < stop <= width else None
