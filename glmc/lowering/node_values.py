"""Where the value of each node of a graph is, and in what dtype."""

from __future__ import annotations

from torch.fx import Node

from glmc.errors import InternalError
from glmc.ir import match as m
from glmc.lowering.assemble import dtype_name
from glmc.lowering.emitter import CallEmitter
from glmc.lowering.target import Value
from glmc_runtime.format.plan import CacheArgument, Call


class NodeValues:
    """The value of each node that was lowered."""

    def __init__(self, emitter: CallEmitter) -> None:
        self._emitter = emitter
        self._values: dict[Node, Value] = {}
        # Copies of values that a rule made in another dtype than the graph's, for their readers.
        self._cast: dict[Node, Value] = {}

    def __contains__(self, node: object) -> bool:
        return node in self._values

    def as_made(self, node: Node) -> Value:
        """The value in the dtype that its rule made it in."""
        return self._values[node]

    def of(self, node: Node) -> Value:
        """The value in the dtype that the graph gives it; a cast for it is called once."""
        value, wanted = self._values[node], m.tensor(node).dtype
        if value.dtype == wanted:
            return value
        if node not in self._cast:
            emitter = self._emitter
            out = emitter.temporary(f"{value.name}_{dtype_name(wanted)}", value.shape, wanted)
            bound = {"source": emitter.argument(value), "out": emitter.argument(out)}
            meta = node.meta
            place = (meta["id"], m.op_name(node), meta["layer"], meta["module"])
            emitter.calls.append(Call("aten.copy", bound, ("out",), False, *place))
            self._cast[node] = out
            emitter.liveness.store(node, out.argument)
        return self._cast[node]

    def put(self, node: Node, value: Value) -> None:
        """The value of a node whose storage nobody writes, such as a weight."""
        self._values[node] = value

    def bind(self, node: Node, value: Value, made: bool = False) -> None:
        """Bind a node to its value. Only what a rule ``made`` may have a dtype of its own.

        Raises InternalError for a value of another shape or dtype than the graph's."""
        self._check(node, value, made)
        self._values[node] = value
        self._emitter.liveness.store(node, value.argument)

    def casts(self) -> dict[Node, Value]:
        """What :meth:`forget_casts` goes back to."""
        return dict(self._cast)

    def forget_casts(self, known: dict[Node, Value]) -> None:
        """Casts but the ``known`` ones were not called after all."""
        self._cast = known

    def _check(self, node: Node, value: Value, made: bool) -> None:
        fake = m.tensor(node)
        if isinstance(value.argument, CacheArgument):  # in the target's own layout
            return
        shape = self._emitter.shape(fake)
        fits = len(shape) == len(value.shape) and all(
            size == other or size.moves or other.moves
            for size, other in zip(shape, value.shape, strict=True)
        )
        if not fits or (fake.dtype != value.dtype and not made):
            raise InternalError(
                f"the plan holds {m.op_name(node)} as another tensor than the program's",
                place=node.meta["id"],
                expected=f"{dtype_name(fake.dtype)} {list(map(str, shape))}",
                found=f"{dtype_name(value.dtype)} {list(map(str, value.shape))}",
            )
