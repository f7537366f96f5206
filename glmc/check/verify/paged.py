"""The passes that change a program's interface: kv_cache and specialise.

Both programs run on the same tokens. Each node of the program after is run on the values of the
program before wherever these are known, so that a difference is the node's own. Known are: nodes
with the same id and op, the operands of each attention, what the caches must hold, the logits.
Whatever sums nothing up must be equal; the rest is reordered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from glmc.check.verify.cases import Case
from glmc.check.verify.execution import BoundInputs, values_of, values_on_ranks
from glmc.check.verify.judge import Expected, Judge, alone
from glmc.check.verify.verdict import Verdict
from glmc.check.verify.weights import ModelWeights
from glmc.ir import match as m
from glmc.ir.ops import semantic_op
from glmc.ir.ops.collectives import is_collective
from glmc.ir.packed import Packed, around_attention, last_tokens, layouts
from glmc.ir.program import Program
from glmc.pipeline.records import PassRecord
from glmc_runtime.format.phases import phase_of


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
    judge = Judge(record)
    known = _same_nodes(before, after)
    used = [case for case in cases if case.decided]
    for case in used:
        altered = weights.altered(case.alteration)
        wanted = {*known.values(), *_around_attention(before), output_of(before)}
        values = values_of(before, BoundInputs(before, case.inputs, altered.table(before)), wanted)
        for packed in layouts(case.token_ids, block_size(after)):
            expected: dict[Node, Any] = {}
            for new, old in known.items():
                rows = _rows(values[old], packed, new)
                if rows is not None:
                    expected[new] = rows
            caches = _attention(before, after, values, packed, expected)
            expected[output_of(after)] = _rows(values[output_of(before)], packed, output_of(after))
            bound = BoundInputs(after, {**packed.inputs(), **caches}, altered.table(after))
            wanted_of = {node: alone(value) for node, value in expected.items()}
            judge.run(after, [bound], wanted_of, case)
    return judge.verdict(len(used))


def verify_phase(
    before: Program,
    after: Program,
    record: PassRecord,
    cases: Sequence[Case],
    weights: ModelWeights,
) -> Verdict:
    """specialise: ``before`` is the paged program, ``after`` that of a phase; of all ranks where
    there are several."""
    judge, ranks = Judge(record), range(before.ranks)
    ragged = not phase_of(after.phase).equates("tokens", "sequences")
    known = _same_nodes(before, after)
    used = [case for case in cases if case.decided]
    for case in used:
        altered = weights.altered(case.alteration)
        layout = layouts(case.token_ids, block_size(before))
        for packed in layout if ragged else last_tokens(layout):
            step = packed.inputs()
            inputs = [{**step, **random_caches(before, packed, rank)} for rank in ranks]
            ends = list(zip(_ends(after), _ends(before), strict=True))
            wanted = {*known.values(), *(old for _, old in ends)}
            values = values_on_ranks(before, bound_on_ranks(before, inputs, altered), wanted)
            expected = {new: Expected([each[old] for each in values]) for new, old in known.items()}
            for new, old in ends:
                logits = [each[old] for each in values]
                if ragged:
                    logits = [each[step["last_rows"]] for each in logits]
                expected[new] = Expected(logits)
            judge.run(after, bound_on_ranks(after, inputs, altered), expected, case)
    return judge.verdict(len(used))


def bound_on_ranks(
    program: Program, inputs: Sequence[Mapping[str, Tensor]], weights: ModelWeights
) -> list[BoundInputs]:
    """The placeholders of each rank."""
    return [
        BoundInputs(program, each, weights.table(program, rank)) for rank, each in enumerate(inputs)
    ]


def block_size(program: Program) -> int:
    """Tokens of a block of a paged program's caches."""
    return next(
        int(m.shape(node)[1 + node.meta["cache"].block_dimension]) for node in program.caches()
    )


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


def output_of(program: Program) -> Node:
    output = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    return output.args[0][0]  # type: ignore[no-any-return]


def _ends(program: Program) -> list[Node]:
    """The logits, and where the ranks join them also what each rank has of them."""
    output = output_of(program)
    op = semantic_op(output.target)
    joined = op is not None and is_collective(op.name)
    return [output, *(output.all_input_nodes if joined else ())]


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


def random_caches(program: Program, packed: Packed, rank: int = 0) -> dict[str, Tensor]:
    """Old content for each cache, another on each rank; what is beyond it is NaN."""
    generator = torch.Generator().manual_seed(11 + rank)
    caches: dict[str, Tensor] = {}
    for node in program.caches():
        _, heads, _, size = m.shape(node)
        shape = (*packed.token_ids.shape, int(heads), int(size))
        value = torch.randn(shape, generator=generator).to(m.dtype(node))
        caches[node.meta["input"]] = packed.cache(value, written=False)
    return caches
