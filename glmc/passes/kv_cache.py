"""kv_cache: the stateless graph becomes one over packed tokens and a paged cache.

Before: tensors [batch, tokens, ...], ``slice``, ``rope``/``norm_rope`` and ``glmc.attention`` per
layer. After: tensors [tokens, ...] where the tokens of all sequences lie behind each other, and per
layer ``glmc.qkv_rope_cache`` (which writes the new keys and values to their slots) with
``glmc.prefill_attention`` over the cache. New inputs: slot_mapping, block_tables, query_lod,
context_lod and a key and a value cache per layer.

Every op outside attention treats each token alone, so packing changes no value. Anything between
that is not known to do so is refused: other ops, products of tokens with tokens, sums that
broadcast, and reshapes that move or join tokens. Reordered: attention over the cache sums in
another order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from glmc.errors import LoweringError
from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.attention import PREFILL_ATTENTION, QKV_ROPE_CACHE
from glmc.ir.program import Program
from glmc.ir.rebuild import Rebuilder
from glmc.passes.base import PassResult, match_at

NAME = "kv_cache"
_PER_TOKEN = (
    "glmc.embedding",
    "glmc.linear",
    "glmc.rms_norm",
    "glmc.add_rms_norm",
    "glmc.swiglu",
    "glmc.silu_mul",
    "glmc.moe_gate",
    "glmc.moe_ffn",
    "glmc.shared_expert",
    "aten.add",
    "aten.mul",
    "aten.silu",
    "getitem",
)
_ELEMENTWISE = ("aten.add", "aten.mul")
# What of an op's operands follows the tokens; all others must be weights of the model.
_TOKEN_OPERANDS = {
    "glmc.embedding": (0,),
    "glmc.linear": (0,),
    "glmc.rms_norm": (0,),
    "glmc.add_rms_norm": (0, 1),
    "glmc.moe_gate": (0,),
    "glmc.moe_ffn": (0, 1, 2),
    "glmc.shared_expert": (0, 3),
}


@dataclass(frozen=True)
class Head:
    """q or k: where it starts in qkv, and how it is normed and rotated."""

    node: Node
    qkv: Node
    start: int
    heads: int
    norm: Node | None
    eps: float
    positions: Node
    frequencies: Node
    interleaved: bool
    scaling: float


@dataclass(frozen=True)
class Layer:
    """One attention with everything between the merged projection and its output."""

    attention: Node
    q: Head
    k: Head
    head_dim: int
    scale: float


def match(attention: Node) -> Layer:
    q, k = _head(m.operand(attention, 0)), _head(m.operand(attention, 1))
    v_qkv, v_start, kv_heads = _part(m.operand(attention, 2))
    at = attention
    m.require(q.qkv is k.qkv and k.qkv is v_qkv, at, "q, k and v must come from one projection")
    head_dim = int(m.shape(attention)[-1])
    m.require(
        (q.start, k.start, v_start) == (0, q.heads * head_dim, (q.heads + k.heads) * head_dim),
        at,
        "the projection must hold q, k and v in this order",
    )
    m.require(k.heads == kv_heads, at, "k and v must have the same number of heads")
    m.require(
        (q.positions, q.frequencies, q.interleaved, q.scaling)
        == (k.positions, k.frequencies, k.interleaved, k.scaling),
        at,
        "q and k must be rotated alike",
    )
    m.require((q.norm is None) == (k.norm is None), at, "q and k must both be normed, or none")
    m.require(q.eps == k.eps, at, "the norms of q and k must have one eps")
    m.require("input" in q.positions.meta, q.node, "the positions must be the step's")
    scale = m.number(attention.args[3])
    if scale is None:
        m.refuse(attention, "the scale must be a number")
    return Layer(attention, q, k, head_dim, float(scale))


def _head(node: Node) -> Head:
    m.expect_op(node, node, "glmc.rope", "glmc.norm_rope")
    norm: Node | None = None
    eps = 0.0
    x, rest = m.operand(node, 0), list(node.args[1:])
    if m.is_op(node, "glmc.norm_rope"):
        norm, eps = m.operand(node, 1), float(node.args[2])  # type: ignore[arg-type]
        rest = rest[2:]
    elif m.is_op(x, "glmc.rms_norm"):
        # What qk_norm left apart: the op over the cache does the same in the same order.
        norm, eps = m.operand(x, 1), float(x.args[2])  # type: ignore[arg-type]
        x = m.operand(x, 0)
    positions, frequencies, interleaved, scaling = rest
    qkv, start, heads = _part(x)
    return Head(
        node,
        qkv,
        start,
        heads,
        norm,
        eps,
        positions,  # type: ignore[arg-type]
        frequencies,  # type: ignore[arg-type]
        bool(interleaved),
        float(scaling),  # type: ignore[arg-type]
    )


def _part(node: Node) -> tuple[Node, int, int]:
    """(projection, first column, heads) of a reshaped column slice of a merged projection."""
    m.expect_op(node, node, "aten.reshape")
    m.require(len(m.shape(node)) == 4, node, "expected [batch, tokens, heads, head_dim]")
    part = m.expect_op(m.operand(node, 0), node, "aten.slice")
    qkv = m.expect_op(m.operand(part, 0), part, "glmc.linear")
    m.require(part.args[1] == len(m.shape(qkv)) - 1, part, "expected a slice of columns")
    m.require(len(part.args) == 4, part, "the slice must take neighbouring columns")
    m.require(all(map(m.is_static, m.shape(node)[2:])), node, "heads and head_dim must be fixed")
    start = m.number(part.args[2])
    m.require(start is not None, part, "the slice must start at a plain column")
    return qkv, int(start or 0), int(m.shape(node)[2])


class KvCache:
    """See the module's text. ``run`` replaces the program's graph, symbols and phase."""

    name = NAME
    numerics = Numerics.REORDERED

    def __init__(self, block_size: int = 128) -> None:
        self.block_size = block_size

    def run(self, program: Program) -> PassResult:
        found = [node for node in program.graph.nodes if m.is_op(node, "glmc.attention")]
        layers: dict[Node, Layer] = {}
        for node in found:
            try:
                layers[node] = match(node)
            except m.NoMatchError as miss:
                raise LoweringError(
                    f"kv_cache can't page the attention {node.meta['id']}",
                    place=_place(miss.node),
                    expected=miss.condition,
                    remedy="see which pass missed this layer: glmc compile --report",
                ) from miss
        paged = _Pager(program, layers, self.block_size).run()
        matches = [match_at(node) for node in found]
        program.graph_module = paged.graph_module
        program.weights, program.symbols = paged.weights, paged.symbols
        program.phase = "paged"
        return PassResult(matches=matches)


class _Pager:
    """Rebuilds one program in paged form."""

    def __init__(self, program: Program, layers: dict[Node, Layer], block_size: int) -> None:
        self.old = program
        self.layers = layers
        self.block_size = block_size
        self.rebuilder = Rebuilder(program, NAME)
        self.inputs: dict[str, Node] = {}

    def run(self) -> Program:
        self._inputs()
        self.rebuilder.weights()
        for node in self._needed():
            if node.op == "call_function":
                self._emit(node)
        output = next(node for node in reversed(self.old.graph.nodes) if node.op == "output")
        self.rebuilder.output(self.rebuilder.new(output.args[0]))
        return self.rebuilder.program_of("paged")

    def _inputs(self) -> None:
        int64, int32 = torch.int64, torch.int32
        specs: dict[str, tuple[tuple[int | str, ...], torch.dtype]] = {
            "token_ids": (("tokens",), int64),
            "positions": (("tokens",), int64),
            "slot_mapping": (("tokens",), int64),
            "block_tables": (("sequences", "table"), int32),
            "query_lod": (("sequences+1",), int32),
            "context_lod": (("sequences+1",), int32),
        }
        for index, layer in enumerate(self.layers.values()):
            heads = (self.block_size, layer.head_dim)
            dims: tuple[int | str, ...] = ("blocks", layer.k.heads, *heads)
            for kind in ("key", "value"):
                specs[f"{kind}_cache.{index}"] = (dims, self.old.dtype)
        for name, (dims, dtype) in specs.items():
            self.inputs[name] = self.rebuilder.input(name, dims, dtype)
        for old in self.old.inputs():
            self.rebuilder.values[old] = self.inputs[old.meta["input"]]

    def _needed(self) -> list[Node]:
        """Nodes that the output needs once attention reads the cache, in graph order."""
        needed: set[Node] = set()
        stack = [node for node in self.old.graph.nodes if node.op == "output"]
        while stack:
            node = stack.pop()
            if node in needed:
                continue
            needed.add(node)
            layer = self.layers.get(node)
            if layer is not None:
                stack.append(layer.q.qkv)
            elif m.is_op(node, "aten.reshape"):
                stack.append(m.operand(node, 0))
            else:
                stack.extend(node.all_input_nodes)
        return [node for node in self.old.graph.nodes if node in needed]

    def _emit(self, node: Node) -> None:
        rebuilder = self.rebuilder
        if node in self.layers:
            rebuilder.values[node] = self._attention(self.layers[node])
        elif m.is_op(node, "aten.reshape"):
            rebuilder.values[node] = self._reshape(node)
        elif m.is_op(node, *_PER_TOKEN):
            _require_per_token(node, self.old)
            call: Any = node.target
            rebuilder.values[node] = rebuilder.call(call, rebuilder.new(node.args), node)
        else:
            expected = "one of " + ", ".join(_PER_TOKEN)
            raise _mixes(node, expected, m.op_name(node))

    def _reshape(self, node: Node) -> Node:
        """Leading batch and token dimensions fold into one; the rest must be plain numbers."""
        sizes = m.shape(node)
        tail = [size for size in sizes if m.is_static(size)]
        follow = [size for size in sizes if not m.is_static(size)]
        if [*follow, *tail] != [*sizes] or len(follow) not in (1, 2):
            raise _mixes(node, "batch and tokens first, then fixed sizes", str(sizes))
        source = self.rebuilder.new(m.operand(node, 0))
        first, *rest = m.shape(source)
        if tail == rest:
            return source  # type: ignore[no-any-return]
        width = self.rebuilder.symbols.extent(first).tokens * math.prod(map(int, rest))
        if width % math.prod(map(int, tail)):
            raise _mixes(
                node, f"a whole number of rows for the {width} numbers of a token", str(tail)
            )
        return self.rebuilder.call(torch.ops.aten.reshape.default, (source, [-1, *tail]), node)

    def _attention(self, layer: Layer) -> Node:
        new, inputs = self.rebuilder.new, self.inputs
        index = list(self.layers).index(layer.attention)
        q, k = layer.q, layer.k
        written = self.rebuilder.call(
            QKV_ROPE_CACHE.overload,
            (
                new(q.qkv),
                None if q.norm is None else new(q.norm),
                None if k.norm is None else new(k.norm),
                inputs["positions"],
                new(q.frequencies),
                inputs["slot_mapping"],
                inputs[f"key_cache.{index}"],
                inputs[f"value_cache.{index}"],
                q.heads,
                k.heads,
                layer.head_dim,
                q.interleaved,
                q.scaling,
                q.eps,
            ),
            q.node,
            **_merged((q.node, k.node, layer.attention)),
        )
        query, keys, values = (self.rebuilder.item(written, part) for part in range(3))
        lods = (inputs["block_tables"], inputs["query_lod"], inputs["context_lod"])
        arguments = (query, keys, values, *lods, layer.scale)
        return self.rebuilder.call(
            PREFILL_ATTENTION.overload, arguments, layer.attention, **_merged((layer.attention,))
        )


def _require_per_token(node: Node, program: Program) -> None:
    """Refuses an op that treats tokens alone in general, but not with these operands."""
    if node.kwargs:
        raise _mixes(node, "no keyword", ", ".join(node.kwargs))
    if m.is_op(node, *_ELEMENTWISE):
        tensors = node.all_input_nodes
        if not all(m.same_shape(node, each) for each in tensors):
            found = ", ".join(str(tuple(m.shape(each))) for each in tensors)
            raise _mixes(node, "operands of one shape", found)
    operands = _TOKEN_OPERANDS.get(m.op_name(node))
    for index, operand in enumerate(node.args if operands is not None else ()):
        if not isinstance(operand, Node) or index in (operands or ()):
            continue
        if program.weight_of(operand) is None:
            raise _mixes(node, "a weight of the model as its other operand", operand.name)


def _place(node: Node) -> str:
    return f"{node.meta.get('id')} {node.meta.get('source') or ''}".strip()


def _mixes(node: Node, expected: str, found: str) -> LoweringError:
    return LoweringError(
        f"kv_cache does not know how {m.op_name(node)} treats packed tokens",
        place=_place(node),
        expected=expected,
        found=found,
        remedy="a pass that should have fused this node missed it; see the report",
    )


def _merged(nodes: tuple[Node, ...]) -> dict[str, Any]:
    """Provenance of a node that stands for several."""
    origins = {name: None for node in nodes for name in node.meta.get("origins", ())}
    passes = {name: None for node in nodes for name in node.meta.get("passes", ())}
    return {"origins": tuple(origins), "passes": (*passes, NAME)}
