"""The passes that change a program's interface: kv_cache and specialise.

Both programs run on the same tokens. Each node of the program after is run on the values of the
program before wherever these are known, so that a difference is the node's own. Known are: nodes
with the same id and op, the operands of each attention, what the caches must hold, the logits.
Whatever sums nothing up must be equal; the rest is reordered.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from glmc.check.verify.cases import Case
from glmc.check.verify.execution import BoundInputs, NodeError, call, values_of
from glmc.check.verify.verdict import Verdict, Violation, Wrong, verdict_text
from glmc.check.verify.weights import ModelWeights
from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.packed import Packed, around_attention, last_tokens, layouts
from glmc.ir.program import Program
from glmc.ir.tolerance import (
    ANOTHER_KIND,
    Deviation,
    Tolerance,
    compare,
    condition_of,
    tolerance_of_call,
)
from glmc.pipeline.records import PassRecord
from glmc_runtime.format.phases import phase_of

Expected = Mapping[Node, Any]


def verify_paging(
    before: Program,
    after: Program,
    record: PassRecord,
    cases: Sequence[Case],
    weights: ModelWeights,
) -> Verdict:
    """kv_cache: ``before`` takes rows of tokens, ``after`` packed tokens and a paged cache.

    Every case runs twice: all tokens at once, and the second half after a filled cache.
    """
    judge = _Judge(record)
    known = _same_nodes(before, after)
    used = [case for case in cases if case.decided]
    for case in used:
        altered = weights.altered(case.alteration)
        wanted = {*known.values(), *_around_attention(before), _output(before)}
        values = values_of(before, BoundInputs(before, case.inputs, altered.table(before)), wanted)
        for packed in layouts(case.token_ids, block_size(after)):
            expected: dict[Node, Any] = {}
            for new, old in known.items():
                rows = _rows(values[old], packed, new)
                if rows is not None:
                    expected[new] = rows
            caches = _attention(before, after, values, packed, expected)
            expected[_output(after)] = _rows(values[_output(before)], packed, _output(after))
            bound = BoundInputs(after, {**packed.inputs(), **caches}, altered.table(after))
            judge.run(after, bound, expected, case)
    return judge.verdict(len(used))


def verify_phase(
    before: Program,
    after: Program,
    record: PassRecord,
    cases: Sequence[Case],
    weights: ModelWeights,
) -> Verdict:
    """specialise: ``before`` is the paged program, ``after`` that of a phase."""
    judge = _Judge(record)
    ragged = not phase_of(after.phase).equates("tokens", "sequences")
    known = _same_nodes(before, after)
    used = [case for case in cases if case.decided]
    for case in used:
        altered = weights.altered(case.alteration)
        layout = layouts(case.token_ids, block_size(before))
        for packed in layout if ragged else last_tokens(layout):
            inputs = {**packed.inputs(), **_random_caches(before, packed)}
            table = altered.table(before)
            wanted = {*known.values(), _output(before)}
            values = values_of(before, BoundInputs(before, inputs, table), wanted)
            expected = {new: values[old] for new, old in known.items()}
            logits = values[_output(before)]
            if ragged:
                logits = logits[inputs["last_rows"]]
            expected[_output(after)] = logits
            judge.run(after, BoundInputs(after, inputs, altered.table(after)), expected, case)
    return judge.verdict(len(used))


def block_size(program: Program) -> int:
    """Tokens of a block of a paged program's caches."""
    return next(
        int(m.shape(node)[1 + node.meta["cache"].block_dimension]) for node in program.caches()
    )


class _Judge:
    """Runs programs on expected values and collects what differs."""

    def __init__(self, record: PassRecord) -> None:
        self.record = record
        self.violations: dict[str, Violation] = {}
        self.compared: set[str] = set()
        self.largest = 0.0
        self.wrong: Wrong | None = None

    def run(
        self, program: Program, bound: Mapping[Node, Any], expected: Expected, case: Case
    ) -> None:
        own: dict[Node, Any] = {}
        values = ChainMap(own, bound)  # type: ignore[arg-type]
        with torch.no_grad():
            for node in program.graph.nodes:
                if node.op != "call_function":
                    continue
                try:
                    own[node] = call(node, values)
                except NodeError as error:
                    self._note(node, case, ANOTHER_KIND, str(error))
                    self._keep(node, values, expected, Tolerance(Numerics.BITWISE), case)
                    return
                if node in expected:
                    tolerance = tolerance_of_call(node).with_condition(condition_of(node, values))
                    self._compare(node, expected[node], own[node], tolerance, case)
                    self._keep(node, values, expected, tolerance, case)
                    own[node] = expected[node]

    def _keep(
        self, node: Node, values: Expected, expected: Expected, tolerance: Tolerance, case: Case
    ) -> None:
        """Hold on to what the first violation can be seen again with."""
        if self.violations and self.wrong is None:
            wanted = expected.get(node)
            self.wrong = Wrong(node, values, frozenset(expected), wanted, tolerance, case.name)

    def _compare(self, node: Node, was: Any, now: Any, tolerance: Tolerance, case: Case) -> None:
        pairs = zip(was, now, strict=True) if isinstance(was, tuple) else ((was, now),)
        deviations = [compare(old, new, tolerance) for old, new in pairs]
        worst = max(deviations, key=lambda deviation: deviation.share)
        name = node.meta["id"]
        self.compared.add(name)
        self.largest = max(self.largest, worst.share)
        if not worst.allowed:
            self._note(node, case, worst)

    def _note(self, node: Node, case: Case, deviation: Deviation, failure: str = "") -> None:
        producer = node.args[0] if m.is_op(node, "getitem") else node
        names = {node.meta["id"], *producer.meta.get("origins", ())}  # type: ignore[union-attr]
        match = next((each for each in self.record.matches if each.node in names), None)
        violation = Violation(
            self.record.name,
            self.record.numerics,
            None if match is None else match.node,
            node.meta["id"],
            node.meta.get("layer"),
            case.name,
            deviation.error,
            deviation.bound,
            node.meta.get("source") or "",
            failure,
        )
        self.violations.setdefault(violation.node, violation)

    def verdict(self, cases: int) -> Verdict:
        violations = tuple(self.violations.values())
        numerics = Numerics(self.record.numerics)
        text = verdict_text(numerics, len(self.compared), "value", cases, self.largest, violations)
        return Verdict(self.record.name, self.record.numerics, text, violations, self.wrong)


def _same_nodes(before: Program, after: Program) -> dict[Node, Node]:
    """Nodes after to nodes before: the same id and op, once in each program."""
    olds, news = _unique(before), _unique(after)
    return {node: olds[key] for key, node in news.items() if key in olds}


def _unique(program: Program) -> dict[tuple[str, str], Node]:
    by_name: dict[tuple[str, str], Node | None] = {}
    for node in program.graph.nodes:
        if node.op == "call_function":
            key = (node.meta["id"], m.op_name(node))
            by_name[key] = None if key in by_name else node
    return {key: node for key, node in by_name.items() if node is not None}


def _output(program: Program) -> Node:
    output = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    return output.args[0][0]  # type: ignore[no-any-return]


def _around_attention(program: Program) -> Iterator[Node]:
    for node in program.graph.nodes:
        if m.is_op(node, "glmc.attention"):
            yield from (node, *node.all_input_nodes)


def _attention(
    before: Program,
    after: Program,
    values: Mapping[Node, Any],
    packed: Packed,
    expected: dict[Node, Any],
) -> dict[str, Tensor]:
    """What goes into the attention over each cache, by the stateless one; the caches' old content
    by input name."""
    stateless = {
        node.meta["id"]: node for node in before.graph.nodes if m.is_op(node, "glmc.attention")
    }
    caches: dict[str, Tensor] = {}
    for node in after.graph.nodes:
        if m.is_op(node, "glmc.prefill_attention"):
            result, contexts = around_attention(stateless[node.meta["id"]], node, values, packed)
            expected.update(result)
            caches.update(contexts)
    return caches


def _rows(value: Any, packed: Packed, new: Node) -> Tensor | None:
    """The packed rows of a value by token, or None when it is nothing of the kind."""
    if not isinstance(value, Tensor) or not isinstance(new.meta["val"], Tensor):
        return None
    batch, tokens = packed.token_ids.shape
    tail = tuple(new.meta["val"].shape[1:])
    if tuple(value.shape) == (batch, tokens, *tail):
        return value.flatten(0, 1)[packed.rows()]
    if tuple(value.shape) == (batch * tokens, *tail):
        return value[packed.rows()]
    return None


def _random_caches(program: Program, packed: Packed) -> dict[str, Tensor]:
    """Old content for each cache; what is beyond it is NaN."""
    generator = torch.Generator().manual_seed(11)
    caches: dict[str, Tensor] = {}
    for node in program.caches():
        _, heads, _, size = m.shape(node)
        shape = (*packed.token_ids.shape, int(heads), int(size))
        value = torch.randn(shape, generator=generator).to(m.dtype(node))
        caches[node.meta["input"]] = packed.cache(value, written=False)
    return caches
