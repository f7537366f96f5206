"""attention: causal grouped-query attention in any spelling becomes one ``glmc.attention``.

Before: permutes to [batch, heads, tokens, head_dim], keys and values repeated for each query head,
a mask, then ``scaled_dot_product_attention``, or two products with a softmax between, or the node
of the marked capture; a permute back. After: ``glmc.attention`` of q, k, v [batch, tokens, heads,
head_dim], no permute and no mask. Anchors: the sdpa, the softmax (safe or not), the marked node.
One match per layer. Reordered: the op sums in the order of whatever kernel it becomes.

The mask and the repetition are not read off their spelling but evaluated (see patterns/causal.py),
and the whole block is evaluated on random values before it is replaced. A traced program (one of
``torch.compile``) has a cache and a mask of its own: there the mask is kept, whatever it hides, and
the block becomes ``glmc.masked_attention`` over keys and values as they are stored; as such a mask
may hide every key of a query, the op says whether that gives zeros or NaN. Refuses sliding windows,
padding masks and masks that don't hide (but for traced programs), dropout, scales that are no
number, and inner values that are read elsewhere.

Safe where the block gives causal attention on every probed mask and on random values; a window,
padding or an inner value that another node reads would make it unsafe. Pays always: scores are
never stored, and the cache needs this node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.attention import ATTENTION
from glmc.ir.ops.masked_attention import MASKED_ATTENTION
from glmc.ir.probe import evaluate, example_shape, known_sizes
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.ir.signature import once, signature
from glmc.passes.base import AnchorPass
from glmc.patterns.causal import known_inputs, require_causal
from glmc.patterns.eager_attention import read_eager, unscaled
from glmc.patterns.layout import is_swap, to_heads_first, token_major
from glmc.patterns.region import require_private

_REPEATS = ("aten.expand", "aten.unsqueeze", "aten.reshape", "aten.repeat_interleave", "aten.index")
# Of nothing but -inf they give NaN, where sdpa and the safe softmax give zeros.
_UNSAFE = ("aten.softmax", "aten._softmax")
_FOUR = "queries, keys and values must be [batch, heads, tokens, head_dim]"
_BATCH, _TOKENS = 2, 5
# Of the largest value; the block and the op may sum in different orders.
_TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}


@dataclass(frozen=True)
class Attention:
    """q, k, v heads-first and unrepeated; ``token_major`` tells the layout of ``root``."""

    anchor: Node
    q: Node
    k: Node
    v: Node
    scale: float
    root: Node
    token_major: bool
    mask: Node | None = None
    causal: bool = True
    safe_softmax: bool = True


def match(anchor: Node, program: Program) -> Attention:
    if m.is_op(anchor, "glmc.marked_attention"):
        q, k, v = (m.operand(anchor, index) for index in range(3))
        m.require(len(m.shape(q)) == len(m.shape(k)) == len(m.shape(v)) == 4, anchor, _FOUR)
        return Attention(anchor, q, k, v, _number(anchor, m.argument(anchor, 3)), anchor, True)
    if m.is_op(anchor, "aten.scaled_dot_product_attention"):
        q, repeated_k, repeated_v, scale, mask, inner = _sdpa(anchor, program)
    else:
        q, repeated_k, repeated_v, scale, mask, inner = read_eager(anchor, program)
    q, by_queries = unscaled(q)
    repeated_k, by_keys = unscaled(repeated_k)
    m.require(len(m.shape(q)) == 4, q, _FOUR)
    heads = m.shape(q)[1]
    m.require(m.is_static(heads), q, "the number of heads must be fixed")
    grouped = bool(m.argument(anchor, 7, "enable_gqa", False))
    k, by_unrepeated = unscaled(_unrepeated(repeated_k, q, program, grouped))
    scale *= by_queries * by_keys * by_unrepeated
    v = _unrepeated(repeated_v, q, program, grouped)
    same = m.same_shape if program.assumes.any_size else m.agreed_shape
    m.require(same(k, v), v, "keys and values must have one shape")
    causal = bool(m.argument(inner, 5, "is_causal", False)) if inner is anchor else False
    if not program.assumes.causal:
        inside = (q, k, v) if mask is None else (q, k, v, mask)
        if mask is not None:
            _require_readable(mask, q, k)
        require_private(inside, inner, "attention")
        root, is_token_major = _last_node(inner, q)
        safe = not m.is_op(anchor, *_UNSAFE)
        return Attention(anchor, q, k, v, scale, root, is_token_major, mask, causal, safe)
    require_private((q, k, v), inner, "attention")
    spelling = ("attention", scale, signature(inner, (q, k, v)))
    once(program, spelling, lambda: _confirm(program, q, k, v, scale, inner))
    root, is_token_major = _last_node(inner, q)
    return Attention(anchor, q, k, v, scale, root, is_token_major)


def _require_readable(mask: Node, q: Node, k: Node) -> None:
    """A mask as the op takes it: of a dtype of its own kernels, and of the scores' own sizes."""
    added = m.dtype(mask) == m.dtype(q)
    m.require(added or m.dtype(mask) == torch.bool, mask, "the mask must have the scores' dtype")
    scores, sizes = (*m.shape(q)[:3], m.shape(k)[2]), m.shape(mask)
    fits = 2 <= len(sizes) <= 4 and all(
        m.same_size(size, 1) or bool(size == wanted)
        for size, wanted in zip(reversed(sizes), reversed(scores), strict=False)
    )
    m.require(fits, mask, "the mask must be [batch, heads, tokens, keys] of the scores, or of 1")


def _sdpa(anchor: Node, program: Program) -> tuple[Node, Node, Node, float, Node | None, Node]:
    q, k, v = (m.operand(anchor, index) for index in range(3))
    mask = m.argument(anchor, 3, "attn_mask")
    dropout = m.argument(anchor, 4, "dropout_p", 0.0)
    m.require(dropout == 0, anchor, f"dropout must be 0, not {dropout}")
    causal = bool(m.argument(anchor, 5, "is_causal", False))
    m.require(not (causal and mask is not None), anchor, "is_causal must not stand beside a mask")
    as_in_eager = not program.assumes.causal
    m.require(
        as_in_eager or causal or mask is not None, anchor, "attention without a mask is not causal"
    )
    if isinstance(mask, Node) and not as_in_eager:
        once(program, ("causal", signature(mask, ())), lambda: require_causal(mask, program))
    scale = m.argument(anchor, 6, "scale")
    if scale is None:
        width = m.shape(q)[-1]
        m.require(m.is_static(width), q, "head_dim must be fixed")
        scale = float(int(width) ** -0.5)
    return q, k, v, _number(anchor, scale), mask if isinstance(mask, Node) else None, anchor


def _number(node: Node, value: object) -> float:
    scale = m.number(value)
    if scale is None:
        m.refuse(node, "the scale must be a number")
    return float(scale)


def _unrepeated(node: Node, q: Node, program: Program, grouped: bool) -> Node:
    """What ``node`` repeats for each query head: [batch, kv_heads, tokens, head_dim]; as many
    tokens as its cache has in a program with one of its own."""
    batch, heads, tokens, width = (str(size) for size in m.shape(q))
    if not program.assumes.causal:
        tokens = str(m.shape(node)[2])
    source, chain = node, [node]
    while m.is_op(source, *_REPEATS):
        source = m.operand(source, 0)
        chain.append(source)
    fitting = [
        value
        for value in chain
        if len(m.shape(value)) == 4
        and [str(m.shape(value)[axis]) for axis in (0, 2, 3)] == [batch, tokens, width]
        and m.is_static(m.shape(value)[1])
        and int(heads) % int(m.shape(value)[1]) == 0
    ]
    if not fitting:
        m.refuse(node, "keys and values must be as many and as wide as the queries")
    repeated = fitting[-1]
    kv_heads = int(m.shape(repeated)[1])
    if grouped and repeated is node:
        return repeated
    spelling = ("repeated", int(heads) // kv_heads, signature(node, (repeated,)))
    m.require(
        once(
            program, spelling, lambda: _is_repeated(node, repeated, int(heads) // kv_heads, program)
        ),
        node,
        "each key and value head must be repeated for neighbouring query heads",
    )
    return repeated


def _is_repeated(node: Node, repeated: Node, times: int, program: Program) -> bool:
    """Whether ``node`` holds each head of ``found`` ``times`` times, side by side."""
    generator = torch.Generator().manual_seed(0)
    if (
        not program.assumes.any_size
    ):  # bytes: the cache may be large, and only shapes are at work here
        sizes = example_shape(repeated)
        value = torch.randint(0, 256, sizes, generator=generator, dtype=torch.uint8)
        known: dict[Node, Any] = {**known_sizes(program), repeated: value}
    else:
        heads, width = (int(m.shape(repeated)[axis]) for axis in (1, 3))
        value = torch.randn(_BATCH, heads, _TOKENS, width, generator=generator)
        value = value.to(m.dtype(repeated))
        known = {**known_inputs(program, _BATCH, _TOKENS), repeated: value}
    got, expected = evaluate(node, known), value.repeat_interleave(times, 1)
    same: bool = got.numel() == expected.numel()
    return same and torch.equal(got.reshape(expected.shape), expected)


def _confirm(program: Program, q: Node, k: Node, v: Node, scale: float, root: Node) -> None:
    """Evaluate the block and the op on the same random values."""
    generator = torch.Generator().manual_seed(0)
    known = known_inputs(program, _BATCH, _TOKENS)
    values = []
    for node in (q, k, v):
        _, heads, _, width = m.shape(node)
        random = torch.randn(_BATCH, int(heads), _TOKENS, int(width), generator=generator)
        known[node] = known.get(node, random.to(m.dtype(node)))
        values.append(known[node].transpose(1, 2))
    expected = ATTENTION.reference(*values, scale).transpose(1, 2)
    got = evaluate(root, known)
    difference = (got.float() - expected.float()).abs().max()
    limit = _TOLERANCES.get(expected.dtype, 1e-6) * expected.abs().max()
    m.require(
        got.shape == expected.shape and got.dtype == expected.dtype and bool(difference <= limit),
        root,
        "the block must compute causal attention; it gives other values",
    )


def _last_node(root: Node, q: Node) -> tuple[Node, bool]:
    """The last node of the block, and whether it is token-major: past the permute, if alone."""
    if len(root.users) == 1:
        user = m.sole_user(root)
        if m.is_op(user, "aten.reshape") and m.same_shape(user, q):
            return _last_node(user, q)
        if is_swap(user):
            return user, True
    return root, False


def rewrite(rewriter: Rewriter, matched: Attention) -> None:
    replaces = (matched.anchor, matched.root)
    if not rewriter.program.assumes.causal:
        q = token_major(rewriter, matched.q)
        over = (
            q,
            matched.k,
            matched.v,
            matched.mask,
            matched.scale,
            matched.causal,
            matched.safe_softmax,
        )
        new = rewriter.call(MASKED_ATTENTION.overload, over, replaces=replaces)
    else:
        q, k, v = (token_major(rewriter, node) for node in (matched.q, matched.k, matched.v))
        new = rewriter.call(ATTENTION.overload, (q, k, v, matched.scale), replaces=replaces)
    if not matched.token_major:
        new = to_heads_first(rewriter, new, matched.root)
    rewriter.replace(matched.root, new)


PASS = AnchorPass(
    "attention",
    Numerics.REORDERED,
    (
        "aten.scaled_dot_product_attention",
        *_UNSAFE,
        "aten._safe_softmax",
        "glmc.marked_attention",
    ),
    match,
    rewrite,
)
