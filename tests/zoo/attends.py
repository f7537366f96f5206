"""Spellings of causal attention, and twists that look like it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from glmc.ir.ops.marked import MARKED_ATTENTION
from tests.zoo.attention import Attend, Block, Parts, causal, no_table, repeated, unrotated

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


def stock_sdpa(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    """The mask of the stock classes: causal and a padding mask of ones."""
    k, v = repeated(block, k), repeated(block, v)
    mask = causal(tokens) & torch.ones_like(tokens).bool()[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=block.scale)


def stock_maskless(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=block.scale, enable_gqa=True
    )
    return out.reshape(out.shape[0], -1, q.shape[2], v.shape[-1])


def stock_eager(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    return _stock_eager(block, q, k, v, _additive(causal(tokens), q.dtype))


def stock_eager_sliced(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    mask = _additive(causal(tokens), q.dtype)[:, :, :, : k.shape[-2]]
    return _stock_eager(block, q, k, v, mask)


def _stock_eager(block: Block, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    k, v = repeated(block, k), repeated(block, v)
    scores = torch.matmul(q, k.transpose(2, 3)) * block.scale + mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    return torch.matmul(F.dropout(weights, p=0.0, training=False), v)


def marked(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    call: Any = MARKED_ATTENTION.overload
    return call(q, k, v, block.scale)  # type: ignore[no-any-return]


def is_causal(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    k, v = repeated(block, k), repeated(block, v)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def enable_gqa(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=causal(tokens), enable_gqa=True)


def repeat_interleave(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    times = block.sizes.heads // block.sizes.kv_heads
    k, v = (each.repeat_interleave(times, 1) for each in (k, v))
    mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=block.scale)


def additive_sdpa(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    k, v = repeated(block, k), repeated(block, v)
    mask = torch.full((q.shape[2], q.shape[2]), -torch.inf, dtype=q.dtype).triu(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def bmm(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    k, v = repeated(block, k), repeated(block, v)
    batch, heads, length, width = q.shape
    q, k, v = (each.reshape(batch * heads, length, width) for each in (q, k, v))
    scores = torch.bmm(q, k.transpose(1, 2)).view(batch, heads, length, length)
    scores = scores * block.scale + _additive(causal(tokens), q.dtype)
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    out = torch.bmm(weights.view(batch * heads, length, length), v)
    return out.view(batch, heads, length, width)


def einsum(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    k, v = repeated(block, k), repeated(block, v)
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * block.scale
    weights = (scores + _additive(causal(tokens), q.dtype)).softmax(-1)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v)


def scaled_queries(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    k, v = repeated(block, k), repeated(block, v)
    scores = (q * block.scale) @ k.transpose(2, 3) + _additive(causal(tokens), q.dtype)
    return F.dropout(scores.softmax(-1), 0.5, training=False) @ v


def scaled_both(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    """A power of two on the keys, so that the product of both factors is exact."""
    k, v = repeated(block, k * 0.5), repeated(block, v)
    scores = (q * (block.scale * 2)) @ k.transpose(2, 3) + _additive(causal(tokens), q.dtype)
    return scores.softmax(-1) @ v


def safe_softmax(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    k, v = repeated(block, k), repeated(block, v)
    scores = q @ k.transpose(2, 3) * block.scale + _additive(causal(tokens), q.dtype, -torch.inf)
    weights: Tensor = torch.ops.aten._safe_softmax.default(scores, -1)
    return weights @ v


class Spelling(NamedTuple):
    """``scaled``: it has a scale of its own, which the pass must read."""

    attend: Attend
    origin: str
    scaled: bool = True


SPELLINGS: dict[str, Spelling] = {
    "sdpa": Spelling(stock_sdpa, "transformers 4.57 to 5.23: sdpa with a mask"),
    "sdpa_without_mask": Spelling(stock_maskless, "transformers 5.23: sdpa without a mask"),
    "eager_sliced": Spelling(
        stock_eager_sliced, "transformers 4.57 and 5.0: eager, the mask cut to the keys"
    ),
    "eager": Spelling(stock_eager, "transformers 5.5 to 5.23: eager"),
    "marked": Spelling(marked, "a function in transformers' registry of attention functions"),
    "is_causal": Spelling(is_causal, "user rewrite: is_causal, the scale left out", False),
    "enable_gqa": Spelling(enable_gqa, "user rewrite: enable_gqa and a mask", False),
    "repeat_interleave": Spelling(
        repeat_interleave, "user rewrite: repeat_interleave, a mask by tril"
    ),
    "additive_sdpa": Spelling(additive_sdpa, "user rewrite: sdpa with a mask of -inf", False),
    "eager_add_first": Spelling(
        _eager(lambda b, s, mask: _additive(mask, s.dtype) + s / (1 / b.scale)),
        "user rewrite: the mask on the left, the scores divided",
    ),
    "eager_where": Spelling(
        _eager(lambda b, s, mask: torch.where(mask, s * b.scale, -torch.inf)),
        "user rewrite: the mask by where",
    ),
    "eager_fill": Spelling(
        _eager(lambda b, s, mask: (s * b.scale).masked_fill(~mask, -torch.inf)),
        "user rewrite: the mask by masked_fill",
    ),
    "bmm": Spelling(bmm, "user rewrite: bmm of batch times heads"),
    "einsum": Spelling(einsum, "user rewrite: einsum"),
    "scaled_queries": Spelling(scaled_queries, "user rewrite: the queries scaled"),
    "safe_softmax": Spelling(safe_softmax, "user rewrite: torch's safe softmax, a mask of -inf"),
    "scaled_both": Spelling(scaled_both, "user rewrite: queries and keys scaled"),
}


def parts(attend: Attend) -> Parts:
    """The block around a spelling or twist: nothing else that would have to be traced."""
    token_major = attend is marked
    return Parts(table=no_table, rotate=unrotated, attend=attend, token_major=token_major)


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


def _summed_window(block: Block, tokens: Tensor) -> Tensor:
    """A window of 1500, which no number in it tells."""
    at = torch.arange(tokens.shape[1])
    return causal(tokens) & (at[:, None] - at[None, :] - 1000 < 500)


def _divided_window(block: Block, tokens: Tensor) -> Tensor:
    at = torch.arange(tokens.shape[1])
    return causal(tokens) & ((at[:, None] - at[None, :]) // 128 < 12)


def _scaled_difference(block: Block, tokens: Tensor) -> Tensor:
    """A window of 2000 by a factor that the overload takes by place."""
    at = torch.arange(tokens.shape[1])
    far = (at[:, None] - at[None, :]).float()
    return causal(tokens) & (torch.ops.aten.rsub.Scalar(far, 100.0, 0.05) > 0)


def _compared_sizes(block: Block, tokens: Tensor) -> Tensor:
    """Everything is seen until a text has 3000 tokens."""
    at = torch.arange(tokens.shape[1])
    return causal(tokens) & (at[:, None] - at[None, :] < 3000 - tokens.shape[1] // 2)


def _far_slope(block: Block, scores: Tensor, mask: Tensor) -> Tensor:
    """A slope that begins at a distance of 2000."""
    at = torch.arange(scores.shape[-1])
    slope = torch.floor((at[None, :] - at[:, None]).to(scores.dtype) / 2000 + 1.0)
    return scores * block.scale + slope.clamp(max=0.0) + _additive(mask, scores.dtype)


def _five_numbers(block: Block, tokens: Tensor) -> Tensor:
    at = torch.arange(tokens.shape[1])
    far = at[:, None] - at[None, :]
    holes = [far != width for width in (1100, 1200, 1300, 1400, 1500)]
    return causal(tokens) & holes[0] & holes[1] & holes[2] & holes[3] & holes[4]


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
    """Weights are sharpened after the softmax."""
    k, v = repeated(block, k), repeated(block, v)
    scores = q @ k.transpose(2, 3) * block.scale + _additive(causal(tokens), q.dtype)
    return scores.softmax(-1).square() @ v


def _biased(block: Block, scores: Tensor, mask: Tensor) -> Tensor:
    """A slope over distance beside the mask, as ALiBi adds."""
    at = torch.arange(scores.shape[-1])
    slope = 0.1 * (at[None, :] - at[:, None]).to(scores.dtype)
    return scores * block.scale + slope + _additive(mask, scores.dtype)


# name -> (attend, reason)
TWISTS: dict[str, tuple[Attend, str]] = {
    "no_mask": (
        _sdpa_with(lambda block, tokens: None),
        "attention without a mask is not causal",
    ),
    "window": (_sdpa_with(_window(4)), "the mask must be causal: at 8 tokens, 4 hides 0"),
    "wide_window": (_sdpa_with(_window(1500)), "the mask must be causal: at 1502 tokens"),
    "huge_window": (
        _sdpa_with(_window(9000)),
        "the mask compares with 9000, which is too large to probe",
    ),
    "summed_window": (_sdpa_with(_summed_window), "the mask must be causal: at 1502 tokens"),
    "divided_window": (_sdpa_with(_divided_window), "which no probe covers"),
    "scaled_difference": (_sdpa_with(_scaled_difference), "which no probe covers"),
    "compared_sizes": (_sdpa_with(_compared_sizes), "which no probe covers"),
    "far_slope": (_eager(_far_slope), "which no probe covers"),
    "five_numbers": (_sdpa_with(_five_numbers), "of which at most 4 can be probed"),
    "shifted": (_sdpa_with(_shifted), "tokens, 0 does not hide 1"),
    "padding": (_sdpa_with(_padding), "the mask depends on the tokens: it hides padding"),
    "per_sequence": (_sdpa_with(_per_sequence), "the mask must be causal"),
    "dropout": (
        _sdpa_with(lambda block, tokens: causal(tokens), 0.1),
        "dropout must be 0, not 0.1",
    ),
    "dropped_weights": (_dropped, "dropout must be 0, not 0.5"),
    "tiled": (_tiled, "must be repeated for neighbouring query heads"),
    "weak": (
        _eager(lambda b, s, mask: s * b.scale + _additive(mask, s.dtype, -1.0)),
        "the mask must add -inf or the lowest float to hidden keys, not -1",
    ),
    "weak_sdpa": (
        _sdpa_with(lambda block, tokens: _additive(causal(tokens), torch.float32, -1e4)),
        "the mask must add -inf or the lowest float to hidden keys, not -10000",
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
    "keys_read_elsewhere": (_leaking_keys, "a value inside the attention is also read"),
    "hardened": (_hardened, "expected the product with the values"),
}
