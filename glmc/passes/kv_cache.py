"""kv_cache: the stateless graph becomes one over packed tokens and a paged cache.

Before: tensors [batch, tokens, ...], ``slice``, ``rope``/``norm_rope`` and ``glmc.attention`` per
layer. After: tensors [tokens, ...] where the tokens of all sequences follow one another, and
per layer ``glmc.qkv_rope_cache`` (which writes the new keys and values to their slots) with
``glmc.prefill_attention`` over the cache. New inputs: slot_mapping, block_tables, cu_seqlens_q,
cu_seqlens_k and a key and a value cache per layer.

Where q, k and v are not the columns of one projection, ``glmc.join_qkv`` copies them side by side.

Every op outside attention treats each token alone, so packing changes no value. Anything between
that is not known to do so (per_token.py) is refused, and so are reshapes that move or join tokens.
Reordered: attention over the cache sums in another order.

Safe where every op outside attention treats each token alone; an op that mixes tokens, or a reshape
that joins them, would make it unsafe. Pays always: without a cache each step computes the whole
context again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from glmc.errors import ConfigError, LoweringError
from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.attention import PREFILL_ATTENTION, QKV_ROPE_CACHE
from glmc.ir.ops.linear import JOIN_QKV
from glmc.ir.program import Cache, Program
from glmc.ir.rebuild import Rebuilder
from glmc.passes.base import PassResult, match_at, read_whole
from glmc.passes.paging_evaluation import Replaced, Side, paged, require_same
from glmc.patterns.per_token import mixes, packed_arguments, place, require_per_token
from glmc_runtime.format.cache import CacheKey

NAME = "kv_cache"
INPUTS = (
    "token_ids",
    "positions",
    "slot_mapping",
    "block_tables",
    "cu_seqlens_q",
    "cu_seqlens_k",
)
"""Step inputs of a paged program."""


@dataclass(frozen=True)
class Head:
    """q or k: ``source`` [batch, tokens, heads, head_dim], and how it is normed and rotated."""

    node: Node
    source: Node
    heads: int
    norm: Node | None
    eps: float
    positions: Node
    frequencies: Node
    interleaved: bool
    scaling: float


@dataclass(frozen=True)
class Layer:
    """One attention with everything between its projection and its output.

    ``qkv`` is None when the three are not side by side in one projection: they are then joined.
    """

    attention: Node
    qkv: Node | None
    q: Head
    k: Head
    v: Node
    head_dim: int
    scale: float

    @property
    def operands(self) -> tuple[Node, ...]:
        """What of the values before the attention must be computed."""
        return (self.q.source, self.k.source, self.v) if self.qkv is None else (self.qkv,)


def match(attention: Node, program: Program) -> Layer:
    q, k = _head(m.operand(attention, 0)), _head(m.operand(attention, 1))
    v, at = m.operand(attention, 2), attention
    kv_heads, head_dim = _heads(v)
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
    scale = m.number(m.argument(attention, 3))
    if scale is None:
        m.refuse(attention, "the scale must be a number")
    qkv = _merged_projection(q.source, k.source, v)
    return Layer(attention, qkv, q, k, v, head_dim, float(scale))


def _head(node: Node) -> Head:
    m.expect_op(node, node, "glmc.rope", "glmc.norm_rope")
    norm: Node | None = None
    eps = 0.0
    x, at = m.operand(node, 0), 1
    if m.is_op(node, "glmc.norm_rope"):
        norm, eps, at = m.operand(node, 1), _eps(node), 3
    elif m.is_op(x, "glmc.rms_norm"):
        # What qk_norm left apart: the op over the cache does the same in the same order.
        norm, eps = m.operand(x, 1), _eps(x)
        x = m.operand(x, 0)
    interleaved, scaling = m.argument(node, at + 2), m.argument(node, at + 3)
    return Head(
        node,
        x,
        _heads(x)[0],
        norm,
        eps,
        m.operand(node, at),
        m.operand(node, at + 1),
        bool(interleaved),
        float(scaling),  # type: ignore[arg-type]
    )


def _eps(norm: Node) -> float:
    return float(m.argument(norm, 2))  # type: ignore[arg-type]


def _heads(node: Node) -> tuple[int, int]:
    """Heads and head_dim of a value [batch, tokens, heads, head_dim]."""
    sizes = m.shape(node)
    m.require(len(sizes) == 4, node, "expected [batch, tokens, heads, head_dim]")
    m.require(all(map(m.is_static, sizes[2:])), node, "heads and head_dim must be fixed")
    return int(sizes[2]), int(sizes[3])


def _merged_projection(q: Node, k: Node, v: Node) -> Node | None:
    """The linear whose columns are q, then k, then v and nothing else, or None."""
    projections: set[Node] = set()
    start = 0
    for node in (q, k, v):
        part = m.argument(node, 0) if m.is_op(node, "aten.reshape") else None
        if not isinstance(part, Node) or not m.is_op(part, "aten.slice"):
            return None
        projection = m.operand(part, 0)
        heads, head_dim = _heads(node)
        bounds = (len(m.shape(projection)) - 1, start, start + heads * head_dim)
        if not m.is_op(projection, "glmc.linear") or m.arguments(part)[1:] != bounds:
            return None
        projections.add(projection)
        start += heads * head_dim
    merged = projections.pop()
    return merged if not projections and m.shape(merged)[-1] == start else None


class KvCache:
    """See the module's text. ``run`` replaces the program's graph, symbols and phase."""

    name = NAME
    numerics = Numerics.REORDERED

    def __init__(self, block_size: int = 128) -> None:
        self.block_size = block_size

    def run(self, program: Program) -> PassResult:
        attentions = [node for node in program.graph.nodes if m.is_op(node, "glmc.attention")]
        _require_all_layers(attentions, program)
        for node in attentions:
            _require_heads_of_config(node, program)
        layers = {node: _read(node, program) for node in attentions}
        after, sides = self.rebuilt(program, layers)
        result = require_same(NAME, sides)
        result.matches = [match_at(node) for node in attentions]
        program.graph_module = after.graph_module
        program.weights, program.symbols = after.weights, after.symbols
        program.phase = "paged"
        return result

    def rebuilt(
        self, program: Program, layers: dict[Node, Layer]
    ) -> tuple[Program, list[Replaced]]:
        """The paged program beside ``program``, and its attentions beside those that were."""
        pager = _Pager(program, layers, self.block_size)
        after, new = pager.run(), pager.rebuilder.new
        sides = []
        for layer in layers.values():
            old = Side(program, layer.attention, layer.operands)
            paging = Side(after, new(layer.attention), new(layer.operands))
            sides.append(Replaced(old, paging, paged))
        return after, sides


def _read(attention: Node, program: Program) -> Layer:
    """What was matched, with every argument of it read."""
    message = f"kv_cache can't page the attention {attention.meta['id']}"
    return read_whole(
        message,
        attention,
        lambda: match(attention, program),
        lambda layer: layer.operands,
    )


def _require_all_layers(attentions: list[Node], program: Program) -> None:
    present = {node.meta["layer"] for node in attentions}
    missing = [layer for layer in range(program.model.layers) if layer not in present]
    if missing:
        layers = ", ".join(map(str, missing[:12])) + (" ..." if len(missing) > 12 else "")
        raise LoweringError(
            "kv_cache can't page a layer whose attention was not recognised",
            place=f"layer {missing[0]}",
            expected=f"glmc.attention in each of {program.model.layers} layers",
            found=f"none in layer{'s' if len(missing) > 1 else ''} {layers}",
            remedy="see which pass missed this layer: glmc compile --report",
        )


def _require_heads_of_config(attention: Node, program: Program) -> None:
    """The cache is sized by the config and filled by the graph."""
    model = program.model
    expected = (model.query_heads, model.kv_heads, model.head_dim)
    query, keys = m.shape(attention.args[0]), m.shape(attention.args[1])
    heads = (query[2], keys[2], query[3])
    if heads != expected or keys[3] != model.head_dim:
        raise ConfigError(
            "the model's attention has other heads than its config says",
            place=place(attention),
            expected="{} query heads and {} KV heads of size {}".format(*expected),
            found="{} query heads and {} KV heads of size {}".format(*heads),
            remedy="correct num_attention_heads, num_key_value_heads or head_dim in config.json, "
            "or report the model: its code reads them in another way",
        )


class _Pager:
    """Rebuilds one program in paged form."""

    def __init__(self, program: Program, layers: dict[Node, Layer], block_size: int) -> None:
        self.old = program
        self.layers = layers
        self.block_size = block_size
        self.rebuilder = Rebuilder(program, NAME)
        self.inputs: dict[str, Node] = {}
        self.caches: dict[Node, tuple[Node, ...]] = {}

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
        for name in INPUTS:
            self.inputs[name] = self.rebuilder.step_input(name, {})
        for index, (attention, layer) in enumerate(self.layers.items()):
            caches = (
                Cache(CacheKey(name, index), (layer.k.heads, layer.head_dim))
                for name in ("key", "value")
            )
            self.caches[attention] = tuple(
                self.rebuilder.cache(cache, self.block_size, self.old.dtype) for cache in caches
            )
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
                stack.extend(layer.operands)
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
        else:
            require_per_token(node, self.old)
            call: Any = node.target
            arguments = rebuilder.new(packed_arguments(node))
            rebuilder.values[node] = rebuilder.call(call, arguments, node, keywords=node.kwargs)

    def _reshape(self, node: Node) -> Node:
        """Leading batch and token dimensions fold into one; the rest must be plain numbers."""
        sizes = m.shape(node)
        tail = [size for size in sizes if m.is_static(size)]
        follow = [size for size in sizes if not m.is_static(size)]
        if [*follow, *tail] != [*sizes] or len(follow) not in (1, 2):
            raise mixes(node, "batch and tokens first, then fixed sizes", str(sizes))
        source = self.rebuilder.new(m.operand(node, 0))
        first, *rest = m.shape(source)
        if tail == rest:
            return source  # type: ignore[no-any-return]
        width = self.rebuilder.symbols.extent(first).factor("tokens") * math.prod(map(int, rest))
        if width % math.prod(map(int, tail)):
            raise mixes(
                node, f"a whole number of rows for the {width} numbers of a token", str(tail)
            )
        return self.rebuilder.call(torch.ops.aten.reshape.default, (source, [-1, *tail]), node)

    def _qkv(self, layer: Layer) -> Any:
        """The merged projection, or q, k and v copied side by side."""
        if layer.qkv is not None:
            return self.rebuilder.new(layer.qkv)
        parts, at = self.rebuilder.new(layer.operands), layer.attention
        return self.rebuilder.call(JOIN_QKV.overload, parts, at, id=f"{at.meta['id']}.qkv")

    def _attention(self, layer: Layer) -> Node:
        new, inputs = self.rebuilder.new, self.inputs
        q, k = layer.q, layer.k
        written = self.rebuilder.call(
            QKV_ROPE_CACHE.overload,
            (
                self._qkv(layer),
                None if q.norm is None else new(q.norm),
                None if k.norm is None else new(k.norm),
                inputs["positions"],
                new(q.frequencies),
                inputs["slot_mapping"],
                *self.caches[layer.attention],
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
        bounds = (inputs["block_tables"], inputs["cu_seqlens_q"], inputs["cu_seqlens_k"])
        arguments = (query, keys, values, *bounds, layer.scale)
        return self.rebuilder.call(
            PREFILL_ATTENTION.overload, arguments, layer.attention, **_merged((layer.attention,))
        )


def _merged(nodes: tuple[Node, ...]) -> dict[str, Any]:
    """Provenance of a node that stands for several."""
    origins = {name: None for node in nodes for name in node.meta.get("origins", ())}
    passes = {name: None for node in nodes for name in node.meta.get("passes", ())}
    return {"origins": tuple(origins), "passes": (*passes, NAME)}
