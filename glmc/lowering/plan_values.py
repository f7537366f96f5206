"""The values that the calls of a phase complete: a row for each node that a rule has lowered.

See glmc_runtime/format/values.py. A view has no row: it is the value that it is a view of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import takewhile

from torch import SymInt
from torch.fx import Node

from glmc.errors import InternalError
from glmc.ir import match as m
from glmc.ir.identity import Identity, identity_of, seen_in_operand
from glmc.ir.program import Program
from glmc.ir.symbols import BLOCKS, Symbols
from glmc.lowering.assemble import dtype_name
from glmc.lowering.liveness import Storage
from glmc_runtime.format.plan import BufferArgument, CacheArgument
from glmc_runtime.format.tensor_key import OUTPUT, TensorKey
from glmc_runtime.format.values import PlanValue, ValuePart

_NONE = Identity()


def plan_values(
    program: Program, outputs: Mapping[int, Iterable[tuple[str, Storage]]]
) -> tuple[PlanValue, ...]:
    """The values of a phase's program; ``outputs`` as :class:`~glmc.lowering.lower.Lowered` has
    them. A key stands once: at the first value that is all of it, else at one that it is a part
    of."""
    if program.symbols is None:
        raise InternalError("only a specialised program has values of a plan")
    places = {node.name: place for place, node in enumerate(program.graph.nodes)}
    nodes = list(program.graph.nodes)
    identities = _identities(program)
    rows: dict[Node, PlanValue] = {}
    for call, names in sorted(outputs.items()):
        for node, storage in sorted(
            ((nodes[places[name]], storage) for name, storage in names),
            key=lambda each: (places[_maker(each[0]).name], _index(each[0])),
        ):
            identity = identities.get(node, _NONE)
            rows[node] = _value(call, node, storage, identity, program.symbols)
    once = dict(zip(rows, _each_key_once(rows.values()), strict=True))
    return tuple(_named(once))


def _identities(program: Program) -> dict[Node, Identity]:
    """What the nodes are, with what their views are."""
    found: dict[Node, Identity] = {}
    for node in reversed(program.graph.nodes):
        own = identity_of(node)
        identity = own.joined(found[node]) if node in found else own
        seen = seen_in_operand(node, identity)
        if seen is not None:
            (operand,) = node.all_input_nodes
            found[operand] = found.get(operand, _NONE).joined(seen)
        found[node] = identity
    return found


def _maker(node: Node) -> Node:
    """What computes a value: of one of several results, the node that has them."""
    return m.operand(node, 0) if m.is_op(node, "getitem") else node


def _index(node: Node) -> int:
    index = node.args[1] if m.is_op(node, "getitem") else 0
    assert isinstance(index, int)
    return index


def _value(
    call: int, node: Node, storage: Storage, identity: Identity, symbols: Symbols
) -> PlanValue:
    meta = node.meta
    parts = [
        ValuePart(part.start, part.stop, next(iter(part.captured), None), _outputs_first(part.keys))
        for part in sorted(identity.parts, key=lambda part: (part.start, part.stop))
    ]
    return PlanValue(
        call=call,
        node=meta["id"],
        op=m.op_name(_maker(node)).removeprefix("glmc."),
        module=meta["module"],
        layer=meta["layer"],
        dtype=dtype_name(m.dtype(node)),
        shape=tuple(_size(size, symbols) for size in m.shape(node)),
        buffer=storage.buffer if isinstance(storage, BufferArgument) else None,
        cache=storage.cache if isinstance(storage, CacheArgument) else None,
        captured=next(iter(identity.captured), None),
        keys=_outputs_first(identity.keys),
        source=meta.get("source") or "",
        passes=tuple(meta.get("passes", ())),
        parts=tuple(parts),
    )


def _outputs_first(keys: Iterable[TensorKey]) -> tuple[TensorKey, ...]:
    return tuple(sorted(keys, key=lambda key: key.kind != OUTPUT))


def _size(size: int | SymInt, symbols: Symbols) -> str:
    if isinstance(size, SymInt) and symbols.names.get(size.node.expr) == BLOCKS:
        return BLOCKS
    return str(symbols.extent(size))


def _each_key_once(values: Iterable[PlanValue]) -> Iterator[PlanValue]:
    rows = list(values)
    whole: dict[TensorKey, int] = {}
    for place, row in enumerate(rows):
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


def _named(rows: Mapping[Node, PlanValue]) -> Iterator[PlanValue]:
    """Values that are no module's tensor have a key of their op."""
    makers: dict[tuple[str, str], dict[Node, int]] = defaultdict(dict)
    for node, row in rows.items():
        if row.keys:
            yield row
            continue
        module, op = _owner(row), row.op.rpartition(".")[2]
        number = makers[module, op].setdefault(_maker(node), len(makers[module, op]))
        yield replace(row, keys=(TensorKey(module, op, number, OUTPUT, str(_index(node))),))


def _owner(row: PlanValue) -> str:
    """The module of a node; of what several modules have parts of, the one that has them all."""
    modules = [key.module for part in row.parts for key in part.keys if key.kind == OUTPUT]
    if not modules:
        return row.module
    names = zip(*(module.split(".") for module in modules), strict=False)
    return ".".join(first for first, *_ in takewhile(lambda each: len(set(each)) == 1, names))
