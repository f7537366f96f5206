"""The values of a step's program: what is expected, and what it makes of what was replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import Node

from glmc.check.align.call_values import Computed, producer, results
from glmc.check.align.chains import Chain, attends
from glmc.check.align.expectation import Expectation
from glmc.check.align.routing import errors_of_rows, gate_of, routed
from glmc.check.align.shown import Shown
from glmc.check.calls.as_lowered import LoweredProgram
from glmc.check.calls.judged import tolerance_of_calls
from glmc.check.calls.written import calls_for
from glmc.check.verify.execution import BoundInputs
from glmc.ir import match as m
from glmc.ir.ops.attention import as_eager, in_blocks
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.plan import BufferArgument

_LOW = (torch.bfloat16, torch.float16)
_SCORES = ("scores", "batch_scores")  # as kernels call what they keep them in


class NodeValues:
    """``expected`` by the reference, else as the program computes it from what is expected;
    ``replayed`` as the free replay has left it. Both on each rank."""

    def __init__(
        self,
        phase: LoweredProgram,
        expectation: Expectation,
        expected: Sequence[BoundInputs],
        replayed: Sequence[BoundInputs],
    ) -> None:
        self._lowered, self._expectation = phase.lowered, expectation
        self._known = {value.node: value for value in phase.lowered.values}
        nodes = {node.name: node for node in phase.program.graph.nodes}
        outputs = phase.lowered.outputs.values()
        self._stored = {nodes[name] for some in outputs for name, _ in some}
        self._of_reference: set[Node] = set()
        self.expected = Chain(phase.program, expected, self._stored)
        self.replayed = Chain(phase.program, replayed, self._stored)

    def compute(self, position: int, shown: Shown) -> Computed:
        """All that is computed for the values of a node, once the calls up to ``position`` are
        done; they are known from then on."""
        node = producer(shown.nodes[0])
        reference = exact = self.expected.compute(node)
        references = others = [reference]
        if any(m.dtype(each) in _LOW for each in shown.nodes):
            exact = self.expected.compute_exact(node)
            if attends(node):
                references = [reference, self.expected.compute_attending(node, in_blocks)]
                others = [*references, self.expected.compute_attending(node, as_eager)]
                references = others if self._keeps_scores(position) else references
        values = self.expected.values
        tolerances = [tolerance_of_calls(node, each, by_element=True) for each in values]
        inherited = self.replayed.compute(node)
        router = errors = None
        if gate_of(shown.nodes[0]) is not None:
            router, other = (
                routed(node, each.values[0]) for each in (self.expected, self.replayed)
            )
            errors = errors_of_rows(router.hidden, other.hidden)
        expected = [results(shown.nodes, each) for each in reference]
        given = self._given(shown, expected[0])
        known = self._knows_operands(node)
        self._of_reference.update(given)
        for each in shown.nodes:
            self.expected.put(each, [given.get(each, mine[each]) for mine in expected])
        made = (references, others, exact, inherited)
        return Computed(shown, frozenset(given), known, *made, tolerances, router, errors)

    def drop_operands(self, shown: Shown) -> None:
        """The values are compared; what they were the last to be computed from goes."""
        for chain in (self.expected, self.replayed):
            chain.drop_operands(producer(shown.nodes[0]))

    def _given(self, shown: Shown, computed: Mapping[Node, Tensor]) -> dict[Node, Tensor]:
        """The values that the reference has; of a router all or none, since it chooses the order
        of the experts."""
        given: dict[Node, Tensor] = {}
        for node in shown.nodes:
            known, like = self._known[node.meta["id"]], computed[node]
            value = self._expectation.value(known, tuple(like.shape))
            if value is not None:
                given[node] = value.to(like.dtype)
        routed = gate_of(shown.nodes[0]) is not None
        return {} if routed and len(given) < len(shown.nodes) else given

    def _knows_operands(self, node: Node) -> bool:
        """Whether all that a node reads are values of the reference, the weights aside."""
        stack, known = list(node.all_input_nodes), True
        while stack and known:
            operand = stack.pop()
            if operand.op == "placeholder":
                known = "cache" not in operand.meta
            elif operand not in self._of_reference:
                known = operand not in self._stored
                stack += operand.all_input_nodes
        return known

    def _keeps_scores(self, position: int) -> bool:
        """Whether the calls of an attention keep its scores in the dtype of its operands."""
        dtypes = {buffer.id: dtype_of(buffer.dtype) for buffer in self._lowered.plan.buffers}
        return any(
            isinstance(argument, BufferArgument) and dtypes[argument.buffer] in _LOW
            for call in calls_for(self._lowered, position)
            for name, argument in call.arguments.items()
            if name in _SCORES
        )
