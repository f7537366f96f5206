"""The values that the calls of a phase complete: a row for each node that a rule has lowered.

See glmc_runtime/format/values.py. A view has no row: it is the value that it is a view of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from torch import SymInt, Tensor
from torch.fx import Node

from glmc.errors import InternalError
from glmc.ir import match as m
from glmc.ir.identity import SUMMAND, Identity, Share, identity_of, seen_in_operand
from glmc.ir.program import Program
from glmc.ir.symbols import BLOCKS, Symbols
from glmc.lowering.assemble import dtype_name
from glmc.lowering.liveness import Storage
from glmc_runtime.format import values
from glmc_runtime.format.dealt import Dealt
from glmc_runtime.format.plan import BufferArgument, CacheArgument
from glmc_runtime.format.tensor_key import OUTPUT, TensorKey
from glmc_runtime.format.values import PlanValue, ValuePart

_NONE = Identity()


@dataclass(frozen=True)
class _Completed:
    """A value: result ``index`` of ``maker``, as what ``id`` names."""

    call: int
    maker: Node
    index: int
    id: str
    fake: Tensor
    storage: Storage
    identity: Identity


def plan_values(
    program: Program,
    outputs: Mapping[int, Iterable[tuple[str, Storage]]],
    unread: Mapping[int, Iterable[tuple[str, int, Storage]]],
) -> tuple[PlanValue, ...]:
    """The values of a phase's program; ``outputs`` as :class:`~glmc.lowering.lower.Lowered` has
    them, ``unread`` as :class:`~glmc.lowering.apply.RuleApplication`. A key stands once: at the
    first value that is all of it, on each rank if there is one, else at one that it is a part of.
    """
    if program.symbols is None:
        raise InternalError("only a specialised program has values of a plan")
    places = {node: place for place, node in enumerate(program.graph.nodes)}
    nodes = {node.name: node for node in places}
    found = [*_read(nodes, outputs, identities(program)), *_unread(nodes, unread)]
    found.sort(key=lambda each: (each.call, places[each.maker], each.index))
    sizes = _Sizes(program.symbols)
    rows = list(_each_key_once([_value(each, sizes) for each in found]))
    return tuple(_named(zip(found, rows, strict=True)))


def _read(
    nodes: Mapping[str, Node],
    outputs: Mapping[int, Iterable[tuple[str, Storage]]],
    known: Mapping[Node, Identity],
) -> Iterator[_Completed]:
    for call, names in outputs.items():
        for name, storage in names:
            node = nodes[name]
            maker, index = _result(node)
            fake = m.tensor(node)
            yield _Completed(call, maker, index, node.meta["id"], fake, storage, known[node])


def _result(node: Node) -> tuple[Node, int]:
    """What computes a value, and which of its results that is."""
    if not m.is_op(node, "getitem"):
        return node, 0
    index = m.argument(node, 1)
    if not isinstance(index, int):
        raise InternalError(f"{node.meta['id']} is no result by number", found=str(index))
    return m.operand(node, 0), index


def _unread(
    nodes: Mapping[str, Node], unread: Mapping[int, Iterable[tuple[str, int, Storage]]]
) -> Iterator[_Completed]:
    """Results that a kernel makes and no node reads, where the captured model has them."""
    for call, names in unread.items():
        for name, index, storage in names:
            maker = nodes[name]
            identity = identity_of(maker).result(index)
            if identity.keys:
                fake = maker.meta["val"][index]
                name = f"{maker.meta['id']}[{index}]"
                yield _Completed(call, maker, index, name, fake, storage, identity)


def identities(program: Program) -> dict[Node, Identity]:
    """What the nodes are, with what their views are."""
    found: dict[Node, Identity] = {}
    for node in reversed(program.graph.nodes):
        own = identity_of(node)
        identity = own.joined(found[node]) if node in found else own
        seen = seen_in_operand(node, identity)
        if seen is not None:
            operand = node.all_input_nodes[0]
            found[operand] = found.get(operand, _NONE).joined(seen)
        found[node] = identity
    return found


class _Sizes:
    """Sizes as text, each made once."""

    def __init__(self, symbols: Symbols) -> None:
        self._symbols = symbols
        names = symbols.names.items()
        self._texts = {size: values.BLOCKS for size, name in names if name == BLOCKS}

    def text(self, size: int | SymInt) -> str:
        if isinstance(size, int):
            return str(size)
        expression = size.node.expr
        if expression not in self._texts:
            self._texts[expression] = str(self._symbols.extent(size))
        return self._texts[expression]


def _value(each: _Completed, sizes: _Sizes) -> PlanValue:
    meta, storage, identity = each.maker.meta, each.storage, each.identity
    parts = [
        ValuePart(part.start, part.stop, next(iter(part.captured), None), _outputs_first(part.keys))
        for part in sorted(identity.parts, key=lambda part: (part.start, part.stop))
    ]
    return PlanValue(
        call=each.call,
        node=each.id,
        op=m.op_name(each.maker).removeprefix("glmc."),
        module=meta["module"],
        layer=storage.layer if isinstance(storage, CacheArgument) else meta["layer"],
        dtype=dtype_name(each.fake.dtype),
        shape=tuple(map(sizes.text, each.fake.shape)),
        buffer=storage.buffer if isinstance(storage, BufferArgument) else None,
        cache=storage.cache if isinstance(storage, CacheArgument) else None,
        captured=next(iter(identity.captured), None),
        keys=_outputs_first(identity.keys),
        source=meta.get("source") or "",
        passes=tuple(meta.get("passes", ())),
        parts=tuple(parts),
        dealt=None if identity.dealt is None else _dealt(identity.dealt),
    )


def _dealt(share: Share) -> Dealt:
    if isinstance(share, str):
        assert share == SUMMAND
        return Dealt()
    axis, layout = share
    runs = (
        tuple((run.start, run.length) for run in layout.runs(rank)) for rank in range(layout.ranks)
    )
    return Dealt(axis, layout.entries, tuple(runs))


def _outputs_first(keys: Iterable[TensorKey]) -> tuple[TensorKey, ...]:
    return tuple(sorted(keys, key=lambda key: key.kind != OUTPUT))


def _each_key_once(rows: Sequence[PlanValue]) -> Iterator[PlanValue]:
    whole: dict[TensorKey, int] = {}
    # What each rank has whole is said by it, not by the shares that it was made of.
    for place, row in sorted(enumerate(rows), key=lambda each: each[1].dealt is not None):
        for key in row.keys:
            whole.setdefault(key, place)
    seen = set(whole)
    for place, row in enumerate(rows):
        parts = []
        for part in row.parts:
            left = tuple(key for key in part.keys if key not in seen)
            seen.update(left)
            if left:
                parts.append(replace(part, keys=left))
        keys = tuple(key for key in row.keys if whole[key] == place)
        yield replace(row, keys=keys, parts=tuple(parts))


def _named(rows: Iterable[tuple[_Completed, PlanValue]]) -> Iterator[PlanValue]:
    """Values that are no module's tensor have a key of their op."""
    makers: dict[tuple[str, str], dict[Node, int]] = defaultdict(dict)
    for each, row in rows:
        if row.keys:
            yield row
            continue
        module, op = _owner(row), row.op.rpartition(".")[2]
        number = makers[module, op].setdefault(each.maker, len(makers[module, op]))
        yield replace(row, keys=(TensorKey(module, op, number, OUTPUT, str(each.index)),))


def _owner(row: PlanValue) -> str:
    """The module of a node; of what modules have parts of, the one that has them all."""
    modules = [key.module for part in row.parts for key in part.keys if key.kind == OUTPUT]
    if not modules:
        return row.module
    names = zip(*(module.split(".")[:-1] for module in modules), strict=False)
    return ".".join(first for first, *_ in takewhile(lambda each: len(set(each)) == 1, names))
