"""Spellings of causal attention, and twists that look like it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.zoo.attention import Attend, Block, causal, repeated

Combine = Callable[["Block", Tensor, Tensor], Tensor]


def _eager(combine: Combine, dim: int = -1) -> Attend:
    """Products around a softmax in float32; ``combine`` scales and masks the scores."""

    def attend(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
        k, v = repeated(block, k), repeated(block, v)
        scores = combine(block, q @ k.transpose(2, 3), causal(tokens))
        return scores.softmax(dim, dtype=torch.float32).to(q.dtype) @ v

    return attend


def _additive(mask: Tensor, dtype: torch.dtype, hidden: float | None = None) -> Tensor:
    low = torch.finfo(dtype).min if hidden is None else hidden
    return torch.where(mask, torch.zeros((), dtype=dtype), low)


def is_causal(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    k, v = repeated(block, k), repeated(block, v)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def enable_gqa(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=causal(tokens), enable_gqa=True)


def repeat_interleave(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    times = block.sizes.heads // block.sizes.kv_heads
    k, v = (each.repeat_interleave(times, 1) for each in (k, v))
    mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)


def additive_sdpa(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    k, v = repeated(block, k), repeated(block, v)
    mask = torch.full((q.shape[2], q.shape[2]), -torch.inf, dtype=q.dtype).triu(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def expand_mask(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    """The mask of the stock classes: causal and a padding mask of ones."""
    k, v = repeated(block, k), repeated(block, v)
    mask = causal(tokens) & torch.ones_like(tokens).bool()[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=block.scale)


def bmm(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    k, v = repeated(block, k), repeated(block, v)
    batch, heads, length, width = q.shape
    q, k, v = (each.reshape(batch * heads, length, width) for each in (q, k, v))
    scores = torch.bmm(q, k.transpose(1, 2)).view(batch, heads, length, length)
    scores = scores * block.scale + _additive(causal(tokens), q.dtype)
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    out = torch.bmm(weights.view(batch * heads, length, length), v)
    return out.view(batch, heads, length, width)


def scaled_queries(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    k, v = repeated(block, k), repeated(block, v)
    scores = (q * block.scale) @ k.transpose(2, 3) + _additive(causal(tokens), q.dtype)
    return F.dropout(scores.softmax(-1), 0.5, training=False) @ v


# name -> (attend, scale or None for head_dim^-0.5)
SPELLINGS: dict[str, tuple[Attend, float | None]] = {
    "expand_mask": (expand_mask, None),
    "is_causal": (is_causal, None),
    "enable_gqa": (enable_gqa, None),
    "repeat_interleave": (repeat_interleave, 0.3),
    "additive_sdpa": (additive_sdpa, None),
    "eager_add": (_eager(lambda b, s, mask: s * b.scale + _additive(mask, s.dtype)), None),
    "eager_add_first": (_eager(lambda b, s, mask: _additive(mask, s.dtype) + s / 5.0), 0.2),
    "eager_where": (_eager(lambda b, s, mask: torch.where(mask, s * b.scale, -torch.inf)), None),
    "eager_fill": (_eager(lambda b, s, mask: (s * 0.3).masked_fill(~mask, -torch.inf)), 0.3),
    "bmm": (bmm, None),
    "scaled_queries": (scaled_queries, None),
}


def _sdpa_with(mask: Callable[[Block, Tensor], Tensor | None], dropout: float = 0.0) -> Attend:
    def attend(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
        k, v = repeated(block, k), repeated(block, v)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask(block, tokens), dropout_p=dropout
        )

    return attend


def _window(width: int) -> Callable[[Block, Tensor], Tensor]:
    def mask(block: Block, tokens: Tensor) -> Tensor:
        at = torch.arange(tokens.shape[1])
        near = at[:, None] - at[None, :] < width
        return causal(tokens) & near

    return mask


def _shifted(block: Block, tokens: Tensor) -> Tensor:
    at = torch.arange(tokens.shape[1])
    return at[None, :] < at[:, None] + 2


def _padding(block: Block, tokens: Tensor) -> Tensor:
    return causal(tokens) & (tokens != 3)[:, None, None, :]


def _per_sequence(block: Block, tokens: Tensor) -> Tensor:
    first = torch.arange(tokens.shape[0])[:, None, None, None] == 0
    return causal(tokens) | ~first


def _tiled(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    """Key heads 0, 1, 0, 1 where grouped-query attention has 0, 0, 1, 1."""
    batch, heads, length, width = k.shape
    times = block.sizes.heads // heads
    k, v = (each[:, None].expand(batch, times, heads, length, width) for each in (k, v))
    k, v = (each.reshape(batch, times * heads, length, width) for each in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=causal(tokens))


def _leaking(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    k, v = repeated(block, k), repeated(block, v)
    scores = q @ k.transpose(2, 3) * block.scale + _additive(causal(tokens), q.dtype)
    weights = scores.softmax(-1)
    block.leaks.append(weights)
    return weights @ v


def _leaking_keys(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    k, v = repeated(block, k), repeated(block, v)
    block.leaks.append(k)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=causal(tokens))


def _dropped(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    k, v = repeated(block, k), repeated(block, v)
    scores = q @ k.transpose(2, 3) * block.scale + _additive(causal(tokens), q.dtype)
    return torch.ops.aten.dropout.default(scores.softmax(-1), 0.5, True) @ v


def _hardened(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    """Weights are sharpened behind the softmax."""
    k, v = repeated(block, k), repeated(block, v)
    scores = q @ k.transpose(2, 3) * block.scale + _additive(causal(tokens), q.dtype)
    return scores.softmax(-1).square() @ v


def _biased(block: Block, scores: Tensor, mask: Tensor) -> Tensor:
    """A slope over distance beside the mask, as ALiBi adds."""
    at = torch.arange(scores.shape[-1])
    slope = 0.1 * (at[None, :] - at[:, None]).to(scores.dtype)
    return scores * block.scale + slope + _additive(mask, scores.dtype)


# name -> (attend, part of the reason)
TWISTS: dict[str, tuple[Attend, str]] = {
    "no_mask": (_sdpa_with(lambda block, tokens: None), "without a mask is not causal"),
    "window": (_sdpa_with(_window(4)), "the mask must be causal: at 8 tokens, 4 hides 0"),
    "wide_window": (_sdpa_with(_window(1500)), "the mask must be causal: at 1502 tokens"),
    "huge_window": (_sdpa_with(_window(9000)), "9000, which is too large to probe"),
    "shifted": (_sdpa_with(_shifted), "0 does not hide 1"),
    "padding": (_sdpa_with(_padding), "the mask depends on the tokens"),
    "per_sequence": (_sdpa_with(_per_sequence), "the mask must be causal"),
    "dropout": (_sdpa_with(lambda block, tokens: causal(tokens), 0.1), "dropout"),
    "dropped_weights": (_dropped, "dropout must be 0, not 0.5"),
    "tiled": (_tiled, "repeated for neighbouring query heads"),
    "weak": (
        _eager(lambda b, s, mask: s * b.scale + _additive(mask, s.dtype, -1.0)),
        "hidden keys, not -1",
    ),
    "weak_sdpa": (
        _sdpa_with(lambda block, tokens: _additive(causal(tokens), torch.float32, -1e4)),
        "hidden keys, not -10000",
    ),
    "distance": (_eager(_biased), "the mask must be causal"),
    "scale_is_a_tensor": (
        _eager(lambda b, s, mask: s * b.factor + _additive(mask, s.dtype)),
        "the scale must be a number",
    ),
    "unmasked": (_eager(lambda b, s, mask: s * b.scale), "the mask must be causal"),
    "bare": (_eager(lambda b, s, mask: s), "attention without a mask is not causal"),
    "over_queries": (
        _eager(lambda b, s, mask: s * b.scale + _additive(mask, s.dtype), 2),
        "the softmax must be over the keys",
    ),
    "weights_read_elsewhere": (_leaking, "expected one user but found 2"),
    "keys_read_elsewhere": (_leaking_keys, "inside the attention is also read"),
    "hardened": (_hardened, "expected the product with the values"),
}
