"""The rewriter: inserts nodes with shapes, ids and provenance, so that no pass does it by hand."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from glmc.errors import InternalError
from glmc.ir.computable import require_computable
from glmc.ir.fake import FakeKernels
from glmc.ir.identity import hand_down, hand_down_columns, hand_up, without_identity
from glmc.ir.match import SHAPES, is_op, require
from glmc.ir.program import Program
from glmc.ir.recipe import Weight
from glmc.ir.snapshot import Snapshot
from glmc_runtime.errors import ExtensionError


def fake_mode_of(graph: Graph) -> FakeTensorMode:
    """The one FakeTensorMode that all values of a graph belong to."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, FakeTensor):
            return value.fake_mode
    raise InternalError("the graph has no fake values")


def layer_of(module: str) -> int | None:
    """17 for ``model.layers.17.mlp``, None outside the layers."""
    parts = module.split(".")
    for name, following in pairwise(parts):
        if name == "layers" and following.isdigit():
            return int(following)
    return None


@dataclass
class Attempt:
    """A rewrite that does not stand yet: what was inserted, what is to read what, and which values
    are ``columns`` of what was inserted. ``editing`` is set where a matcher is through and code
    that may edit anything runs."""

    inserted: dict[Node, None] = field(default_factory=dict)
    replaced: dict[Node, Node] = field(default_factory=dict)
    columns: list[tuple[Node, Node, tuple[int, int]]] = field(default_factory=list)
    editing: bool = False

    @property
    def starts(self) -> set[Node]:
        """What of the graph as it was the new nodes read, or stands for what is replaced; and what
        that is another shape of."""
        return self._read() | self.sources

    @property
    def sources(self) -> set[Node]:
        """As :attr:`starts`, of several shapes of one value the value alone."""
        return set(map(_unshaped, self._read()))

    def _read(self) -> set[Node]:
        read = {node for new in self.inserted for node in new.all_input_nodes}
        read |= set(self.replaced.values())
        # Of one of several results, what computes them stands as it did.
        read |= {node.all_input_nodes[0] for node in read if node.target is operator.getitem}
        return read - set(self.inserted)


def _unshaped(node: Node) -> Node:
    while is_op(node, *SHAPES) and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


class Rewriter:
    """Edits one program's graph for one pass; call :meth:`finish` at the end.

    Between :meth:`begin` and :meth:`commit` nothing reads what was inserted, and
    :meth:`abandon` takes it out again.
    """

    def __init__(self, program: Program, pass_name: str) -> None:
        self.program = program
        self.graph = program.graph
        self.pass_name = pass_name
        self._fakes = FakeKernels(fake_mode_of(program.graph))
        self._first = next(iter(self.graph.nodes))
        # Which node reads as which: what a proof of the pass compares (glmc/check/verify).
        self._replaced: dict[str, str] = {}
        program.replaced = self._replaced
        self._heirs: dict[Node, Node] = {}
        self.attempt: Attempt | None = None
        self._before: Snapshot | None = None
        self._weights = {
            node.meta["weight"]: node for node in program.placeholders() if "weight" in node.meta
        }

    def call(
        self,
        target: Callable[..., Any],
        arguments: Sequence[Any],
        *,
        replaces: Sequence[Node],
        before: Node | None = None,
        value: Any = None,
        keywords: Mapping[str, Any] | None = None,
    ) -> Node:
        """Insert a call before ``before`` (default: right after the latest operand).

        ``replaces`` are the nodes whose meaning the new node takes over; the first names it: its
        id, module path and source line are kept. ``value`` is the fake value where it is known
        (the replaced node's own, say), which spares running the fake kernel. ``keywords`` are
        constants, such as the dtype of a cast.
        """
        if before is not None:
            context = self.graph.inserting_before(before)
        else:
            context = self.graph.inserting_after(self._latest(arguments))
        with context:
            node = self.graph.call_function(target, tuple(arguments), dict(keywords or {}))
        self._note_inserted(node)
        if value is None:
            value = self._fakes.call(target, arguments, keywords)
        node.meta["val"] = value
        self.describe(node, replaces)
        if not self.program.assumes.step_inputs:  # values are of any dtype and device
            require_computable(self.program, target, arguments, value, replaces[0])
        return node

    def describe(self, node: Node, replaces: Sequence[Node]) -> None:
        """Give a node the id of the first replaced node and the provenance of all."""
        if not replaces:
            raise InternalError(f"{self.pass_name} inserted a node that replaces nothing")
        first = replaces[0]
        origins: dict[str, None] = {}
        passes: dict[str, None] = {}
        for old in replaces:
            origins.update(dict.fromkeys(old.meta.get("origins", (old.meta["id"],))))
            passes.update(dict.fromkeys(old.meta.get("passes", ())))
        for key in ("id", "module", "layer", "source"):
            node.meta[key] = first.meta.get(key)
        node.meta["origins"] = tuple(origins)
        node.meta["passes"] = (*passes, self.pass_name)

    def item(self, node: Node, index: int) -> Node:
        """``node[index]`` right after a node with several outputs."""
        with self.graph.inserting_after(node):
            picked = self.graph.call_function(operator.getitem, (node, index))
        self._note_inserted(picked)
        picked.meta.update(without_identity(node.meta))
        picked.meta["id"] = f"{node.meta['id']}[{index}]"
        picked.meta["val"] = node.meta["val"][index]
        return picked

    def weight(self, weight: Weight) -> Node:
        """The placeholder of a weight, made when it is not there yet.

        Another weight may have the name already, since tied weights have one name in two places:
        then a number is put after it.
        """
        name, number = weight.name, 1
        while self.program.weights.get(weight.name, weight) != weight:
            weight, number = replace(weight, name=f"{name}.{number}"), number + 1
        if weight.name in self._weights:
            return self._weights[weight.name]
        with self.graph.inserting_before(self._first):
            node = self.graph.placeholder("weight_" + _identifier(weight.name))
        self._note_inserted(node)
        node.meta["val"] = self._fakes.weight(weight.shape, weight.dtype)
        module = weight.name.rpartition(".")[0]
        node.meta.update(
            weight=weight.name, id=weight.name, module=module, layer=layer_of(module), source=None
        )
        self.program.weights[weight.name] = weight
        self._weights[weight.name] = node
        return node

    def replace(self, old: Node, new: Node) -> None:
        """Let every user of ``old`` read ``new``, which must be a tensor of the same kind, once the
        attempt stands; what it has inserted keeps what it was given. Outside of an attempt nothing
        would check the rewrite, so there it is refused."""
        was, now = old.meta["val"], new.meta["val"]
        if isinstance(was, torch.Tensor) and isinstance(now, torch.Tensor):
            differ = any(map(_known_to_differ, was.shape, now.shape)) or was.dim() != now.dim()
            require(
                was.dtype == now.dtype and not differ,
                old,
                f"what replaces it must be {was.dtype} {list(was.shape)}, "
                f"not {now.dtype} {list(now.shape)}",
            )
        if self.attempt is None:
            raise ExtensionError(
                f"pass '{self.pass_name}' replaces a value without having it checked",
                place=f"node {old.name}",
                expected="a rewrite inside of an attempt, which is accounted for and evaluated",
                found="Rewriter.replace outside of one",
                remedy="make it an AnchorPass, or hand each anchor to attempt of glmc.passes.base",
            )
        self.attempt.replaced[old] = new

    def columns(self, old: Node, new: Node, start: int, stop: int) -> None:
        """Columns ``start`` to ``stop`` of ``new``, inserted in this attempt, are what ``old`` was,
        which nobody reads once it stands."""
        if self.attempt is None:
            raise InternalError(f"{self.pass_name} names columns outside of an attempt")
        self.attempt.columns.append((old, new, (start, stop)))

    def begin(self) -> Attempt:
        """From here on, an attempt."""
        if self._before is None:
            self._before = Snapshot(self.program)
        self.attempt = Attempt()
        return self.attempt

    def commit(self) -> None:
        """The attempt stands. Nothing but what replaces a value may be read by the old nodes, since
        nothing else was compared; ExtensionError otherwise, and :meth:`abandon` takes it back."""
        if self.attempt is None or self._before is None:
            return
        attempt = self.attempt
        for node in attempt.inserted:
            for user in node.users:
                if user not in attempt.inserted:
                    raise self._edited(user)
        self.attempt = None
        self._before.keep(attempt.inserted)
        for old, new in attempt.replaced.items():
            self._before.keep(self._stand(old, new, attempt.inserted))
        for old, new, columns in attempt.columns:
            hand_down_columns(old, new, *columns)

    def abandon(self) -> None:
        """Make the program what it was at :meth:`begin`, whatever the rewrite has inserted or
        rewired until it failed. Without an attempt there is nothing to do."""
        attempt, self.attempt = self.attempt, None
        if attempt is None or self._before is None:
            return
        if not (attempt.inserted or attempt.replaced or attempt.editing):
            return  # most anchors miss in the matcher, which only reads
        for node in attempt.inserted:
            if node.op == "placeholder":
                self._weights.pop(node.meta.get("weight"), None)
        self._before.restore(self.pass_name)

    def _stand(self, old: Node, new: Node, inserted: Container[Node]) -> list[Node]:
        self._replaced[new.name] = old.name
        self._heirs[old] = new
        hand_down(old, new)
        return old.replace_all_uses_with(new, delete_user_cb=lambda user: user not in inserted)

    def require_unedited(self) -> None:
        """Raise ExtensionError when operands were changed in another way than by :meth:`replace`,
        between nodes that were there before, say, which :meth:`commit` does not look for."""
        node = None if self._before is None else self._before.edited()
        if node is not None:
            raise self._edited(node)

    def _edited(self, node: Node) -> ExtensionError:
        return ExtensionError(
            f"pass '{self.pass_name}' rewired a node without having it checked",
            place=f"node {node.name}",
            expected="operands that are changed by Rewriter.replace, which is evaluated",
            found=f"the operands {node.all_input_nodes}",
            remedy="insert what is to be computed instead, and replace the value by it",
        )

    def _note_inserted(self, node: Node) -> None:
        if self.attempt is not None:
            self.attempt.inserted[node] = None

    def finish(self) -> None:
        """Sort, drop what nobody reads, drop unused weights, check and recompile."""
        sort_topologically(self.graph)
        hand_down_origins(self.graph, self._heirs)
        drop_dead_nodes(self.graph)
        used = {node.meta["weight"] for node in self.graph.nodes if "weight" in node.meta}
        for name in [name for name in self.program.weights if name not in used]:
            del self.program.weights[name]
        self.graph.lint()
        self.program.graph_module.recompile()

    def _latest(self, arguments: Sequence[Any]) -> Node:
        """The operand that comes last in the graph; node order is compared by fx's sort key."""
        nodes: list[Node] = []
        torch.fx.node.map_arg(tuple(arguments), nodes.append)
        if not nodes:
            raise InternalError(f"{self.pass_name} inserted a node without operands")
        latest = nodes[0]
        for node in nodes[1:]:
            if latest < node:
                latest = node
        if latest.op == "placeholder":
            while latest.next.op == "placeholder":
                latest = latest.next
        return latest


def _known_to_differ(left: int | torch.SymInt, other: int | torch.SymInt) -> bool:
    return bool(statically_known_true(left != other))  # type: ignore[no-untyped-call, unused-ignore]


def _identifier(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def hand_down_origins(graph: Graph, heirs: Mapping[Node, Node]) -> None:
    """Let what is about to be dropped be remembered by the node that stands for it.

    ``heirs`` maps replaced nodes to their replacements; a dead node that only dead nodes read is
    inherited by what replaced those. So no pass has to name every node that it makes superfluous.
    """
    dying: dict[Node, dict[Node, None]] = {}
    origins: dict[Node, dict[str, None]] = {}
    for node in reversed(list(graph.nodes)):
        dead = all(user in dying for user in node.users)
        if node.op != "call_function" or not dead:
            continue
        own = _producer(heirs.get(node))
        takers = dict.fromkeys(taker for user in node.users for taker in dying[user])
        dying[node] = {own: None} if own is not None else takers
        for taker in dying[node]:
            names = node.meta.get("origins", (node.meta["id"],))
            origins.setdefault(taker, {}).update(dict.fromkeys(reversed(names)))
    for taker, names in origins.items():
        known = taker.meta.get("origins")
        if known is None:  # it stood there before, as what a removed cast handed through
            continue
        first = dict.fromkeys((*known, *reversed(names)))
        for node in (taker, *taker.users):
            if node is taker or node.target is operator.getitem:
                node.meta["origins"] = tuple(first)


def _producer(node: Node | None) -> Node | None:
    """What computes a node: for one of several outputs, the call that has them."""
    if node is not None and node.target is operator.getitem and isinstance(node.args[0], Node):
        return node.args[0]
    return node


def drop_dead_nodes(graph: Graph) -> int:
    """Erase nodes without users, weights included; step inputs and outputs stay."""
    dropped = 0
    for node in reversed(list(graph.nodes)):
        if node.op == "output" or node.users or "input" in node.meta:
            continue
        hand_up(node)
        graph.erase_node(node)
        dropped += 1
    return dropped


def sort_topologically(graph: Graph) -> None:
    """Move nodes only where an operand stands after its user; keeps the order otherwise."""
    seen = {node for node in graph.nodes if node.op == "placeholder"}
    for node in list(graph.nodes):
        _place_operands(node, seen)


def _place_operands(node: Node, seen: set[Node]) -> None:
    stack = [node]
    while stack:
        current = stack[-1]
        if current in seen:
            stack.pop()
            continue
        missing = [operand for operand in current.all_input_nodes if operand not in seen]
        if missing:
            for operand in missing:
                current.prepend(operand)
            stack.extend(missing)
        else:
            seen.add(current)
            stack.pop()
