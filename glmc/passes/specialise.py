"""specialise: the paged graph becomes one graph for prefill and one for decode.

Prefill: the head only sees the last token of each sequence (``glmc.select_rows`` by the new input
``last_rows`` before the head's linear). Decode: one token per sequence, so
``glmc.prefill_attention`` becomes ``glmc.decode_attention`` with ``context_lengths``, and tokens
and sequences are one symbol. Bitwise for everything outside attention.

Safe because the head treats each token alone, and with one token per sequence both attentions are
one; a head that mixes tokens, or two tokens of a sequence in a decode step, would make it unsafe.
Pays always: the head's product is of last tokens only, and decode has its own kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch.fx import Node

from glmc.errors import InternalError, LoweringError
from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.attention import DECODE_ATTENTION
from glmc.ir.ops.linear import SELECT_ROWS
from glmc.ir.program import Program
from glmc.ir.rebuild import Rebuilder
from glmc.passes.base import PassResult, read_whole
from glmc.passes.paging_evaluation import Cases, Replaced, Side, decoded, last_rows
from glmc.passes.paging_evaluation import require_same as evaluated
from glmc_runtime.format.phases import DECODE, PREFILL, Phase, PhaseKey

NAME = "specialise"
NUMERICS = Numerics.REORDERED
Read = TypeVar("Read")


def head_of(program: Program) -> Node:
    """The linear that makes the logits, or a rank's part of them; raises LoweringError when the
    output is something else."""
    output = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    head = output.args[0][0]
    if isinstance(head, Node) and m.is_op(head, "glmc.all_gather"):
        head = m.operand(head, 0)
    if not isinstance(head, Node) or not m.is_op(head, "glmc.linear"):
        raise LoweringError(
            "the logits must be the output of the head's linear",
            expected="glmc.linear",
            found=m.op_name(head),
        )
    return head


def prefill(program: Program) -> Program:
    """The prefill phase of a paged program; logits [sequences, vocabulary]."""
    rebuilder, inputs = _begin(program, PREFILL)
    head = head_of(program)
    hidden, rest = _read(head, _head)
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if node is head:
            arguments = (rebuilder.new(hidden), inputs["last_rows"])
            rows = rebuilder.call(
                SELECT_ROWS.overload, arguments, node, id=f"{node.meta['id']}.rows", dealt=None
            )
            call = rebuilder.call(
                node.target,  # type: ignore[arg-type]
                (rows, *rebuilder.new(rest)),
                node,
            )
            rebuilder.values[node] = call
        else:
            _repeat(rebuilder, node)
    return _finish(rebuilder, program, PREFILL)


def decode(program: Program) -> Program:
    """The decode phase of a paged program; logits [tokens, vocabulary]."""
    rebuilder, inputs = _begin(program, DECODE)
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if m.is_op(node, "glmc.prefill_attention"):
            operands, scale = _read(node, _attention)
            tables, lengths = inputs["block_tables"], inputs["context_lengths"]
            arguments = (*rebuilder.new(operands), tables, lengths, scale)
            passes = (*node.meta.get("passes", ()), NAME)
            call = rebuilder.call(DECODE_ATTENTION.overload, arguments, node, passes=passes)
            rebuilder.values[node] = call
        else:
            _repeat(rebuilder, node)
    return _finish(rebuilder, program, DECODE)


PHASES: Mapping[PhaseKey, Callable[[Program], Program]] = {
    PREFILL.key: prefill,
    DECODE.key: decode,
}
"""How the program of each phase is made of the paged one, in the order of a compile."""
PHASE_NAMES = tuple(str(key) for key in PHASES)


def require_same(program: Program, programs: Mapping[PhaseKey, Program]) -> PassResult:
    """Evaluate what the phases have in place of the paged program's nodes, once for each kind;
    raises VerificationError."""
    if unknown := programs.keys() - {PREFILL.key, DECODE.key}:
        raise InternalError(f"nothing says how to evaluate the phases {sorted(map(str, unknown))}")
    prefill, decode = programs[PREFILL.key], programs[DECODE.key]
    head, attentions = head_of(program), _of_op(program, "glmc.prefill_attention")
    sides = _replaced((program, [head]), (prefill, [head_of(prefill)]), 1, last_rows)
    phase = (decode, _of_op(decode, "glmc.decode_attention"))
    sides += _replaced((program, attentions), phase, 3, decoded)
    return evaluated(NAME, sides)


def _of_op(program: Program, name: str) -> list[Node]:
    return [node for node in program.graph.nodes if m.is_op(node, name)]


def _replaced(
    before: tuple[Program, list[Node]],
    after: tuple[Program, list[Node]],
    operands: int,
    cases: Cases,
) -> list[Replaced]:
    """What stands for each node of ``before``, from what stands for its first operands on."""
    numbers = {node: key for key, node in _numbered(before[0]).items()}
    known, sides = _numbered(after[0]), []
    for old, new in zip(before[1], after[1], strict=True):
        starts = tuple(m.operand(old, index) for index in range(operands))
        twins = tuple(known[numbers[start]] for start in starts)
        sides.append(Replaced(Side(before[0], old, starts), Side(after[0], new, twins), cases))
    return sides


def _numbered(program: Program) -> dict[tuple[str, str, int], Node]:
    """Nodes by id and op, and by how many had these before: a phase repeats nodes in order."""
    seen: Counter[tuple[str, str]] = Counter()
    numbers = {}
    for node in program.graph.nodes:
        name = (node.meta["id"], m.op_name(node))
        numbers[(*name, seen[name])] = node
        seen[name] += 1
    return numbers


def _read(node: Node, read: Callable[[Node], Read]) -> Read:
    """What a node that is replaced reads, every argument of it."""
    message = f"specialise can't replace {node.meta['id']}"
    return read_whole(message, node, lambda: read(node), lambda _: node.all_input_nodes)


def _head(node: Node) -> tuple[Node, tuple[object, ...]]:
    return m.operand(node, 0), m.arguments(node)[1:]


def _attention(node: Node) -> tuple[tuple[Node, ...], object]:
    """(query and caches, scale); decode has one table and one length for each query instead of
    the rest, which must be the step's."""
    for index, name in ((3, "block_tables"), (4, "cu_seqlens_q"), (5, "cu_seqlens_k")):
        source = m.operand(node, index).meta.get("input")
        m.require(source == name, node, f"operand {index} must be the step's {name}")
    return tuple(m.operand(node, index) for index in range(3)), m.argument(node, 6)


def _begin(program: Program, phase: Phase) -> tuple[Rebuilder, dict[str, Node]]:
    rebuilder = Rebuilder(program, NAME)
    inputs = {name: rebuilder.step_input(name, phase.equal_names) for name in phase.inputs}
    for old in program.inputs():
        name = old.meta["input"]
        if "cache" in old.meta:
            rebuilder.values[old] = rebuilder.cache_like(old)
        elif name in inputs:
            rebuilder.values[old] = inputs[name]
    rebuilder.weights()
    return rebuilder, inputs


def _repeat(rebuilder: Rebuilder, node: Node) -> None:
    call: Any = node.target
    rebuilder.values[node] = rebuilder.call(
        call, rebuilder.new(node.args), node, keywords=node.kwargs
    )


def _finish(rebuilder: Rebuilder, program: Program, phase: Phase) -> Program:
    output = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    rebuilder.output(rebuilder.new(output.args[0]))
    return rebuilder.program_of(phase.name)
