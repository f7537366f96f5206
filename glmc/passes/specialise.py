"""specialise: the paged graph becomes one graph for prefill and one for decode.

Prefill: the head only sees the last token of each sequence (``glmc.select_rows`` by the new input
``last_rows`` in front of the head's linear). Decode: one token per sequence, so
``glmc.prefill_attention`` becomes ``glmc.decode_attention`` with ``context_lengths``, and tokens
and sequences are one symbol. Bitwise for everything outside attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from glmc.errors import LoweringError
from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.attention import DECODE_ATTENTION
from glmc.ir.ops.linear import SELECT_ROWS
from glmc.ir.program import Program
from glmc.ir.rebuild import Rebuilder
from glmc.ir.symbols import Dimension

NAME = "specialise"
NUMERICS = Numerics.REORDERED

_INT64, _INT32 = torch.int64, torch.int32
_PREFILL: dict[str, tuple[tuple[Dimension, ...], torch.dtype]] = {
    "token_ids": (("tokens",), _INT64),
    "positions": (("tokens",), _INT64),
    "slot_mapping": (("tokens",), _INT64),
    "block_tables": (("sequences", "table"), _INT32),
    "query_lod": (("sequences+1",), _INT32),
    "context_lod": (("sequences+1",), _INT32),
    "last_rows": (("sequences",), _INT64),
}
_DECODE: dict[str, tuple[tuple[Dimension, ...], torch.dtype]] = {
    "token_ids": (("tokens",), _INT64),
    "positions": (("tokens",), _INT64),
    "slot_mapping": (("tokens",), _INT64),
    "block_tables": (("tokens", "table"), _INT32),
    "context_lengths": (("tokens",), _INT32),
}


def head_of(program: Program) -> Node:
    """The linear that makes the logits; raises LoweringError when the output is something else."""
    output = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    head = output.args[0][0]
    if not isinstance(head, Node) or not m.is_op(head, "glmc.linear"):
        raise LoweringError(
            "the logits must be the output of the head's linear",
            expected="glmc.linear",
            found=m.op_name(head),
        )
    return head


def prefill(program: Program) -> Program:
    """The prefill phase of a paged program; logits [sequences, vocabulary]."""
    rebuilder, inputs = _begin(program, _PREFILL)
    head = head_of(program)
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if node is head:
            hidden = rebuilder.new(node.args[0])
            arguments = (hidden, inputs["last_rows"])
            rows = rebuilder.call(
                SELECT_ROWS.overload, arguments, node, id=f"{node.meta['id']}.rows"
            )
            call = rebuilder.call(
                node.target,  # type: ignore[arg-type]
                (rows, *rebuilder.new(node.args[1:])),
                node,
            )
            rebuilder.values[node] = call
        else:
            _repeat(rebuilder, node)
    return _finish(rebuilder, program, "prefill")


def decode(program: Program) -> Program:
    """The decode phase of a paged program; logits [tokens, vocabulary]."""
    rebuilder, inputs = _begin(program, _DECODE)
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if m.is_op(node, "glmc.prefill_attention"):
            query, keys, values = rebuilder.new(node.args[:3])
            tables, lengths = inputs["block_tables"], inputs["context_lengths"]
            arguments = (query, keys, values, tables, lengths, node.args[-1])
            passes = (*node.meta.get("passes", ()), NAME)
            call = rebuilder.call(DECODE_ATTENTION.overload, arguments, node, passes=passes)
            rebuilder.values[node] = call
        else:
            _repeat(rebuilder, node)
    return _finish(rebuilder, program, "decode")


def _begin(
    program: Program, specs: dict[str, tuple[tuple[Dimension, ...], torch.dtype]]
) -> tuple[Rebuilder, dict[str, Node]]:
    rebuilder = Rebuilder(program, NAME)
    inputs = {name: rebuilder.input(name, *spec) for name, spec in specs.items()}
    for old in program.inputs():
        name = old.meta["input"]
        if "_cache." in name:
            sizes = m.shape(old)[1:]
            inputs[name] = rebuilder.input(name, ("blocks", *sizes), program.dtype)  # type: ignore[arg-type]
        if name in inputs:
            rebuilder.values[old] = inputs[name]
    rebuilder.weights()
    return rebuilder, inputs


def _repeat(rebuilder: Rebuilder, node: Node) -> None:
    call: Any = node.target
    rebuilder.values[node] = rebuilder.call(
        call, rebuilder.new(node.args), node, keywords=node.kwargs
    )


def _finish(rebuilder: Rebuilder, program: Program, phase: str) -> Program:
    output = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    rebuilder.output(rebuilder.new(output.args[0]))
    return rebuilder.program_of(phase)
