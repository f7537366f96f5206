"""One node by the target's rule: the op that the rule sees, and the values that it made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from torch.fx import Node

from glmc.errors import InternalError, LoweringError
from glmc.ir import match as m
from glmc.ir.ops import OPS
from glmc.ir.ops.aten import aten_facts
from glmc.lowering.emitter import CallEmitter, Operands
from glmc.lowering.in_place import whole
from glmc.lowering.liveness import Storage
from glmc.lowering.node_values import NodeValues
from glmc.lowering.target import Op, Target, Value
from glmc_runtime.format.plan import BufferArgument, CacheArgument


class RuleApplication:
    """Applies the rules of ``target`` to the nodes of one graph.

    ``written``: by the last call of each node, the names of the graph's values that are complete
    after it, and the storage of each. ``unread``: in the same way the results that no node reads,
    by the name of the node that has them and their index.
    """

    def __init__(self, target: Target, emitter: CallEmitter, values: NodeValues) -> None:
        self.written: dict[int, list[tuple[str, Storage]]] = defaultdict(list)
        self.unread: dict[int, list[tuple[str, int, Storage]]] = defaultdict(list)
        self._target, self._emitter, self._values = target, emitter, values

    def __call__(self, node: Node, ready: Callable[[Op], Op] = lambda op: op) -> None:
        """Lower ``node``; ``ready`` gives the op its operands as rules expect them.

        Raises LoweringError for an op without a rule and for arguments that no rule reads."""
        name = m.op_name(node).removeprefix("glmc.")
        rule = self._target.rules.get(name)
        if rule is None:
            raise LoweringError(
                f"{self._target.name} has no kernel for {m.op_name(node)}",
                place=f"{node.meta['id']} {node.meta.get('source') or ''}".strip(),
                expected="one of " + ", ".join(sorted(self._target.rules)),
                found=m.op_name(node),
                remedy="see which pass made or missed this node: glmc compile ... --report",
            )
        op = self._emitter.enter(node, name, self._operands(node, name))
        rule(ready(op), self._emitter)
        self._bind_outputs(node)

    def _operands(self, node: Node, name: str) -> Operands:
        facts = aten_facts(name)
        unknown = {key: value for key, value in node.kwargs.items() if key not in facts.implied}
        if unknown:
            raise LoweringError(
                f"no rule knows what {', '.join(unknown)} of {m.op_name(node)} means",
                place=node.meta["id"],
                found=", ".join(f"{key}={value}" for key, value in unknown.items()),
                remedy="see which pass missed this node: glmc inspect ARTIFACT, 'not fused'",
            )
        names = OPS[name].argument_names if name in OPS else facts.arguments
        if len(node.args) > len(names):
            raise LoweringError(
                f"no rule knows what all arguments of {m.op_name(node)} mean",
                place=node.meta["id"],
                expected=f"at most {len(names)}",
                found=", ".join(map(str, node.args)),
                remedy="see which pass missed this node: glmc inspect ARTIFACT, 'not fused'",
            )
        bound: Operands = {}
        for key, argument in zip(names[: len(node.args)], node.args, strict=True):
            if isinstance(argument, Node):
                as_made = (name, key) in self._target.as_made
                read = self._values.as_made if as_made else self._values.of
                bound[key] = read(argument)
            elif argument is None or isinstance(argument, (bool, int, float, str)):
                bound[key] = argument
            elif isinstance(argument, (list, tuple)) and all(isinstance(i, int) for i in argument):
                bound[key] = [int(i) for i in argument if isinstance(i, int)]
            else:
                raise InternalError(f"{node.meta['id']} has an argument of {type(argument)}")
        return bound

    def _bind_outputs(self, node: Node) -> None:
        outputs = self._emitter.outputs
        if isinstance(node.meta["val"], tuple):
            for user in node.users:
                index = user.args[1]
                if isinstance(index, int) and index in outputs:
                    self._bind(user, outputs[index])
            read = {user.args[1] for user in node.users}
            for index, value in outputs.items():
                if index not in read and isinstance(value.argument, BufferArgument):
                    place = (node.name, index, BufferArgument(value.argument.buffer))
                    self.unread[len(self._emitter.calls) - 1].append(place)
        elif 0 in outputs:
            self._bind(node, outputs[0])
        else:
            raise InternalError(f"the rule for {m.op_name(node)} gave no result")

    def _bind(self, node: Node, value: Value) -> None:
        self._values.bind(node, value, made=True)
        if isinstance(value.argument, (BufferArgument, CacheArgument)):
            place = (node.name, whole(value.argument))
            self.written[len(self._emitter.calls) - 1].append(place)  # type: ignore[arg-type]
