"""How a region of a graph is dealt to ranks, read from the facts of its ops.

A region ends at an op whose result the ranks add up, such as the output projection of an attention.
From there the walk goes up through what the facts let be cut, and ends at the weights, at the
caches and at ops that cut a whole value by their weight alone, such as the projection of q, k and
v. Nothing is named here but through facts: no op, no module, no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.layout import Layout, Section, even
from glmc.ir.ops import SemanticOp, semantic_op
from glmc.ir.ops.facts import Cut, Sharding, by_name

Place = tuple[int, Layout]
"""An axis, counted from 0, and how it is dealt."""


@dataclass
class Dealing:
    """What has been decided of a program. ``calls`` are the ops that ranks compute apart;
    ``places`` the values, weights and caches that are cut; ``summands`` the values of which each
    rank has a summand, and ``first`` the weights that rank 0 alone has. ``read``: (reader, value)
    of each cut value or summand that a reader expects to be one. A rank has a ``multiple`` of so
    many of the columns of a product, where they are dealt one by one. ``merged``: see
    :class:`~glmc.ir.layout.Layout`.
    """

    ranks: int
    expert_parallel: bool = False
    multiple: int = 1
    merged: int = 1
    calls: dict[Node, Sharding] = field(default_factory=dict)
    places: dict[Node, Place] = field(default_factory=dict)
    summands: set[Node] = field(default_factory=set)
    first: set[Node] = field(default_factory=set)
    read: set[tuple[Node, Node]] = field(default_factory=set)

    def copy(self) -> Dealing:
        """One that can be given up."""
        return Dealing(
            self.ranks,
            self.expert_parallel,
            self.multiple,
            self.merged,
            dict(self.calls),
            dict(self.places),
            set(self.summands),
            set(self.first),
            set(self.read),
        )

    def layout(self, sections: Iterable[Section]) -> Layout:
        """How sections are dealt."""
        return Layout(tuple(sections), self.ranks, self.merged)

    def even(self, size: int, multiple: int) -> Layout:
        """How ``size`` entries are dealt, a ``multiple`` of so many to each rank."""
        return even(size, self.ranks, multiple=multiple, merged=self.merged)

    @property
    def sums(self) -> Iterator[Layout]:
        """The layouts of dimensions that are summed over and cut."""
        for node, way in self.calls.items():
            if way.results != ("sum",) or way.op is not None:
                continue
            operands = dict(zip(_op(node).argument_names, node.args, strict=True))
            values = [operands[key] for key, how in way.operands.items() if isinstance(how, Cut)]
            for value in values:
                if isinstance(value, Node) and value in self.places:
                    yield self.places[value][1]


def arguments_of(node: Node) -> dict[str, Any]:
    """The arguments of a semantic op by name, tensors as their fake values."""
    names = _op(node).argument_names
    return {name: _value(item) for name, item in zip(names, node.args, strict=True)}


def _value(item: object) -> Any:
    return item.meta["val"] if isinstance(item, Node) else item


def _op(node: Node) -> SemanticOp:
    op = semantic_op(node.target)
    if op is None:
        m.refuse(node, "no facts say how ranks share it")
    return op


def summing(node: Node, dealing: Dealing) -> Sharding | None:
    """The way in which the ranks add up the result of ``node``, if it has one. One rank alone
    shares no vocabulary and no experts: only its sums can be cut."""
    op = semantic_op(node.target)
    ways = [] if op is None else [each for each in op.facts.shardings if each.results == ("sum",)]
    if dealing.ranks == 1:
        ways = [each for each in ways if each.op is None]
    by_expert = [each for each in ways if each.name == "experts"]
    if by_expert and dealing.expert_parallel:
        return by_expert[0]
    return next((each for each in ways if each.name != "experts"), None)


def deal_sum(node: Node, dealing: Dealing) -> Dealing:
    """``dealing`` and the region that ends at ``node``; refuses where a part can't be cut."""
    way = summing(node, dealing)
    if way is None:
        m.unrelated(node)
    after = dealing.copy()
    _settle(node, way, None, after)
    after.summands.add(node)
    _require_readers(after, dealing)
    return after


def deal_columns(node: Node, dealing: Dealing) -> Dealing:
    """``dealing`` and ``node`` cut by its weight alone, as the head is by the vocabulary."""
    after = dealing.copy()
    ways = [each for each in _op(node).facts.shardings if each.name == "column"]
    m.require(ways, node, "its facts must have a cut by columns")
    _settle(node, ways[0], None, after)
    axis = m.tensor(node).dim() - 1
    after.places[node] = (axis, after.even(int(m.shape(node)[axis]), after.multiple))
    return after


def _settle(node: Node, way: Sharding, shared: Layout | None, dealing: Dealing) -> None:
    """Compute ``node`` on several ranks by ``way``; ``shared`` is the layout of its cuts by number,
    where a reader has one already."""
    if node in dealing.calls:
        m.require(dealing.calls[node] is way, node, "two readers want it cut in two ways")
        return
    op, named = _op(node), arguments_of(node)
    operands = dict(zip(op.argument_names, node.args, strict=True))
    cuts = {key: how for key, how in way.operands.items() if isinstance(how, Cut)}
    shared = shared or _layout(node, way, dealing)
    dealing.calls[node] = way
    for key, how in cuts.items():
        value = operands[key]
        if isinstance(value, Node):
            axis = how.axis % m.tensor(value).dim()
            size = m.shape(value)[axis]
            if size == 1 and how.layout(named, shared).entries != 1:
                continue  # it broadcasts
            _demand(value, axis, how.layout(named, shared), node, dealing)
    for key in (key for key, how in way.operands.items() if how == "first"):
        value = operands[key]
        if isinstance(value, Node):
            _summand(value, node, dealing)


def _layout(node: Node, way: Sharding, dealing: Dealing) -> Layout:
    """The layout that the cuts by number of ``node`` share: that of an operand that has one of its
    own, else an even one."""
    own = _shared_layout(node, way, dealing)
    if own is not None:
        return own
    for _, axis, value, sections in _cuts_by_number(node, way):
        multiple = 1 if way.name == "experts" else dealing.multiple
        return dealing.even(int(m.shape(value)[axis]) // sections, multiple)
    return dealing.even(1, 1)


def _shared_layout(node: Node, way: Sharding, dealing: Dealing) -> Layout | None:
    """The layout that an operand of ``node`` can only be cut by and that all cuts by number share
    then; None where any will do."""
    for key, axis, value, sections in _cuts_by_number(node, way):
        size = m.shape(value)[axis]
        m.require(m.is_static(size), node, f"the cut dimension of {key} must be fixed")
        own = _own_layout(value, axis, dealing) if sections == 1 else None
        if own is not None:
            return own
    return None


def _cuts_by_number(node: Node, way: Sharding) -> Iterator[tuple[str, int, Node, int]]:
    """Name, axis and value of each operand that is cut so many times by the one layout."""
    operands = dict(zip(_op(node).argument_names, node.args, strict=True))
    for key, how in way.operands.items():
        value = operands[key]
        if isinstance(how, Cut) and isinstance(how.sections, int) and isinstance(value, Node):
            yield key, how.axis % m.tensor(value).dim(), value, how.sections


def _own_layout(value: Node, axis: int, dealing: Dealing) -> Layout | None:
    """The layout that a value can only be cut by, None where any will do."""
    if value in dealing.places:
        return dealing.places[value][1]
    if value.op == "placeholder":
        return None
    if m.is_op(value, "aten.reshape"):
        source = m.operand(value, 0)
        place = _through(value, axis, source)
        own = None if place is None else _own_layout(source, place[0], dealing)
        return None if own is None or place is None else _rescaled(own, place[1])
    maker, index = _maker(value)
    if semantic_op(maker.target) is None:
        return None
    for way in _op(maker).facts.shardings:
        how = way.results[index]
        if not isinstance(how, Cut) or how.axis % m.tensor(value).dim() != axis:
            continue
        if callable(how.sections):
            return dealing.layout(by_name(how.sections, arguments_of(maker)))
        return _shared_layout(maker, way, dealing) if how.sections == 1 else None
    return None


def _maker(value: Node) -> tuple[Node, int]:
    """The op that makes a value, and which of its results it is."""
    if m.is_op(value, "getitem"):
        return m.operand(value, 0), int(m.argument(value, 1))  # type: ignore[call-overload]
    return value, 0


def _demand(value: Node, axis: int, layout: Layout, reader: Node, dealing: Dealing) -> None:
    """``reader`` needs ``value`` cut along ``axis`` by ``layout``."""
    m.require(
        layout.entries == m.shape(value)[axis],
        value,
        f"the dimension of {m.shape(value)[axis]} must be the {layout.entries} that are dealt",
    )
    dealing.read.add((reader, value))
    if value in dealing.places:
        m.require(
            dealing.places[value] == (axis, layout), value, "two readers want it cut in two ways"
        )
        return
    dealing.places[value] = (axis, layout)
    if value.op == "placeholder":
        cut = "weight" in value.meta or "cache" in value.meta
        m.require(cut, value, "a step input is whole on each rank")
        return
    if m.is_op(value, "aten.reshape"):
        source = m.operand(value, 0)
        place = _through(value, axis, source)
        own = None if place is None else _rescaled(layout, 1 / place[1])
        if place is None or own is None:
            m.refuse(value, "a change of shape that cuts through what is dealt")
        _demand(source, place[0], own, value, dealing)
        return
    maker, index = _maker(value)
    if maker is not value:
        dealing.read.add((value, maker))
    for way in _op(maker).facts.shardings:
        how = way.results[index]
        if isinstance(how, Cut) and how.axis % m.tensor(value).dim() == axis:
            shared = None if callable(how.sections) else layout
            m.require(
                shared is not None or how.layout(arguments_of(maker), layout) == layout,
                value,
                "two readers want it cut in two ways",
            )
            _settle(maker, way, shared, dealing)
            return
    m.refuse(value, "its facts must have a way to cut it so")


def _through(reshape: Node, axis: int, source: Node) -> tuple[int, Fraction] | None:
    """The axis of the source that is cut where that of the result is, and how many entries of the
    result are one of the source. Only fixed dimensions at the end are split or joined."""
    after, before = m.shape(reshape), m.shape(source)
    lead = next(
        (at for at, (a, b) in enumerate(zip(after, before, strict=False)) if a is not b and a != b),
        min(len(after), len(before)),
    )
    if axis < lead:
        return axis, Fraction(1)
    if axis != lead or not all(map(m.is_static, (*after[lead:], *before[lead:]))):
        return None
    if 1 not in (len(after) - lead, len(before) - lead):
        return None
    # [..., heads, size] became [..., heads * size], or the other way round.
    return lead, Fraction(int(after[lead]), int(before[lead]))


def _rescaled(layout: Layout, factor: Fraction) -> Layout | None:
    """The layout where an entry is ``factor`` of them, or ``1 / factor`` are one."""
    return layout.scaled(int(factor)) if factor >= 1 else layout.divided(int(1 / factor))


def _summand(value: Node, reader: Node, dealing: Dealing) -> None:
    """``reader`` adds ``value`` to what the ranks add up anyway."""
    dealing.read.add((reader, value))
    if value.op == "placeholder":
        m.require("weight" in value.meta, value, "a step input is whole on each rank")
        dealing.first.add(value)
        return
    if value not in dealing.summands:
        way = summing(value, dealing)
        if way is None:
            m.refuse(value, "the ranks must have summands of it")
        _settle(value, way, None, dealing)
        dealing.summands.add(value)


def _require_readers(after: Dealing, before: Dealing) -> None:
    """What is newly cut is read by those alone who know, and so are summands that are not added up
    where they are made."""
    for value in {*after.places} - {*before.places}:
        for reader in value.users:
            knows = (reader, value) in after.read or (value.op == "placeholder")
            m.require(knows, value, "it is also read whole, or by what is not dealt")
    for value in after.summands - before.summands:
        known = [(reader, value) in after.read for reader in value.users]
        m.require(all(known) or not any(known), value, "it is also read added up")


def whole_reads(dealing: Dealing) -> Iterator[tuple[Node, Node]]:
    """(reader, weight or cache) of those that are cut and that a reader still takes for whole."""
    for value in (*dealing.places, *dealing.first):
        for reader in value.users:
            if (reader, value) not in dealing.read:
                yield reader, value
