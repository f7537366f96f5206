"""Rows of layers against each other: nodes or calls, paired by id and not by place.

Layers that read the same are kept once on each side, so each pair of blocks is compared once, and
what differs is said once with all its layers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from glmc.observe.diff.record import NodeChange
from glmc.observe.history.ids import layers_of
from glmc.observe.history.record import History

Layer = int | None


@dataclass(frozen=True)
class Row:
    """A node or a call in words. Rows of one ``id`` and ``kind`` are paired first, then those of
    one ``id``, each in order."""

    id: str
    kind: str
    text: str


@dataclass(frozen=True)
class RowChange:
    """What differs in a layer; None on the side that has no such row. With ``order`` the rows are
    the same, and the first that stands elsewhere is named with the one in its place."""

    id: str
    a: str | None
    b: str | None
    order: bool = False


Blocks = Mapping[Layer, Sequence[Row]]
"""Rows by layer; layers that read the same share one object."""
Changes = dict[Layer, tuple[RowChange, ...]]


def common_layers(a: History, b: History) -> tuple[Layer, ...]:
    """The outside, and the layers that both models have."""
    return (None, *range(min(layers_of(a), layers_of(b))))


def row_changes(a: Blocks, b: Blocks, layers: Iterable[Layer], *, ordered: bool = True) -> Changes:
    """What differs in each of the layers, the order of the rows included where they are
    ``ordered``."""
    compared: dict[tuple[int, int], tuple[RowChange, ...]] = {}
    changes: Changes = {}
    for layer in layers:
        left, right = a.get(layer, ()), b.get(layer, ())
        pair = (id(left), id(right))
        if pair not in compared:
            order = _order(left, right) if ordered else ()
            compared[pair] = (*_differing(left, right), *order)
        changes[layer] = compared[pair]
    return changes


def folded(changes: Changes) -> tuple[NodeChange, ...]:
    """Each change once, with all layers that have it, in the order in which it is first met."""
    layers: dict[RowChange, list[Layer]] = defaultdict(list)
    for layer, some in changes.items():
        for change in dict.fromkeys(some):
            layers[change].append(layer)
    return tuple(
        NodeChange(change.id, tuple(some), change.a, change.b, change.order)
        for change, some in layers.items()
    )


def _differing(left: Sequence[Row], right: Sequence[Row]) -> Iterator[RowChange]:
    """In the order of the left side; what only the right side has comes after what it follows."""
    ours, others = list(_numbered(left)), dict(_numbered(right))
    only_right: dict[str, list[str]] = defaultdict(list)
    known = {key for key, _ in ours}
    for key, row in others.items():
        if key not in known:
            only_right[row.id].append(row.text)
    for key, row in ours:
        other = others.get(key)
        if other is None:
            spare = only_right[row.id]
            yield RowChange(row.id, row.text, spare.pop(0) if spare else None)
        elif other.text != row.text:
            yield RowChange(row.id, row.text, other.text)
    for own, texts in only_right.items():
        yield from (RowChange(own, None, text) for text in texts)


def _order(left: Sequence[Row], right: Sequence[Row]) -> Iterator[RowChange]:
    """The first of the paired rows that stands in another place, if one does."""
    ours, others = dict(_numbered(left)), dict(_numbered(right))
    for mine, other in zip(
        (key for key in ours if key in others), (key for key in others if key in ours), strict=True
    ):
        if mine != other:
            first, second = (" ".join(filter(None, key[:2])) for key in (mine, other))
            yield RowChange(
                mine[0], f"{first} before {second}", f"{second} before {first}", order=True
            )
            return


def _numbered(rows: Iterable[Row]) -> Iterator[tuple[tuple[str, str, int], Row]]:
    """Rows of the same id and kind are told apart by their order."""
    seen: Counter[tuple[str, str]] = Counter()
    for row in rows:
        yield (row.id, row.kind, seen[row.id, row.kind]), row
        seen[row.id, row.kind] += 1
