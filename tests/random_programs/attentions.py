"""Attention as a user may write it: rotation, cache, mask and softmax in any spelling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.random_programs.parts import Held, norm_of, norms

MASKS = (
    "none",
    "flag",
    "causal",
    "seen",
    "added",
    "by head",
    "whole numbers",
    "float64",
    "one dimension",
    "bonus",
    "window",
    "padded",
)
ROTATIONS = ("none", "halves", "pairs", "part", "two products")
POSITIONS = ("int64", "int32", "float32", "quarters", "far", "below", "written")
_LONGEST = 12


@dataclass(frozen=True)
class AttentionSettings:
    heads: int
    kv_heads: int
    width: int
    whole: bool
    mask: str
    scale: float | None
    cap: float | None
    sinks: bool
    cache: str
    repeat: str
    rotation: str
    positions: str
    held: str
    bias: bool
    norm: str | None
    returns: str


def attentions() -> st.SearchStrategy[AttentionSettings]:
    heads = st.sampled_from([(2, 1), (2, 2), (4, 1), (4, 2), (4, 4)])
    return heads.flatmap(
        lambda pair: st.builds(
            AttentionSettings,
            heads=st.just(pair[0]),
            kv_heads=st.just(pair[1]),
            width=st.sampled_from([8, 32, 32]),
            whole=st.booleans(),
            mask=st.sampled_from(MASKS),
            scale=st.sampled_from([None, None, 0.25]),
            cap=st.sampled_from([None, None, 5.0]),
            sinks=st.sampled_from([False, False, True]),
            cache=st.sampled_from(["none", "none", "written", "joined"]),
            repeat=st.sampled_from(["expanded", "interleaved", "tiled"]),
            rotation=st.sampled_from(ROTATIONS),
            positions=st.sampled_from(POSITIONS),
            held=st.sampled_from(["parameter", "parameter", "buffer", "attribute"]),
            bias=st.booleans(),
            norm=st.none() | norms(),
            returns=st.sampled_from(["result", "result", "keys", "scores", "positions"]),
        )
    )


class Attention(nn.Module):
    """[batch, tokens, hidden] to the same. With ``whole`` torch's own attention is called where
    the settings allow it, else products and a softmax."""

    def __init__(self, settings: AttentionSettings, hidden: int) -> None:
        super().__init__()
        self.settings = of = settings
        sizes = (of.heads * of.width, of.kv_heads * of.width, of.kv_heads * of.width)
        self.q, self.k, self.v = (Held(of.held, hidden, size, of.bias) for size in sizes)
        self.o = Held("parameter", of.heads * of.width, hidden, False)
        turned = of.width // 2 if of.rotation == "part" else of.width
        steps = torch.arange(0, turned, 2) / turned
        self.register_buffer("frequencies", 1 / 10000.0**steps, persistent=False)
        self.sink = nn.Parameter(torch.randn(of.heads), requires_grad=False)
        self.norm = None if of.norm is None else norm_of(of.norm, of.width)

    def _read(self, positions: Tensor) -> Tensor:
        kind = self.settings.positions
        if kind == "int32":
            return positions.int()
        if kind == "float32":
            return positions.float()
        if kind == "quarters":
            return (positions / 4).long()
        return positions + {"far": 150_000, "below": -2}.get(kind, 0)

    def _turn(self, x: Tensor, positions: Tensor) -> Tensor:
        """x [batch, heads, tokens, width]."""
        kind = self.settings.rotation
        if kind == "none":
            return x
        angles = positions[:, :, None].float() * self.frequencies  # type: ignore[operator]
        half = angles.shape[-1]
        x, passed = x[..., : 2 * half], x[..., 2 * half :]
        if kind == "pairs":
            angles = angles.repeat_interleave(2, -1)[:, None]
            turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
        elif kind == "two products":
            cos, sin = angles.cos()[:, None], angles.sin()[:, None]
            one, two = x.chunk(2, -1)
            return torch.cat((one * cos - two * sin, two * cos + one * sin, passed), -1)
        else:
            angles = torch.cat((angles, angles), -1)[:, None]
            turned = torch.cat((-x[..., half:], x[..., :half]), -1)
        x = x * angles.cos().to(x.dtype) + turned * angles.sin().to(x.dtype)
        return torch.cat((x, passed), -1)

    def _heads(self, x: Tensor, count: int) -> Tensor:
        return x.view(*x.shape[:2], count, self.settings.width).transpose(1, 2)

    def _repeat(self, x: Tensor) -> Tensor:
        times = self.settings.heads // self.settings.kv_heads
        if times == 1:
            return x
        if self.settings.repeat == "tiled":
            return x.repeat(1, times, 1, 1)
        if self.settings.repeat == "interleaved":
            return x.repeat_interleave(times, 1)
        batch, heads, length, width = x.shape
        wide = x[:, :, None].expand(batch, heads, times, length, width)
        return wide.reshape(batch, heads * times, length, width)

    def _mask(self, queries: int, keys: int, batch: int, like: Tensor) -> Tensor | None:
        """What hides, or is added; a query at the end of the keys sees all that is before it."""
        at = torch.arange(queries)[:, None] + keys - queries
        seen = torch.arange(keys) <= at
        kind = self.settings.mask
        if kind in ("none", "flag"):
            return None
        if kind == "window":
            return seen & (torch.arange(keys) > at - 2)
        if kind == "padded":
            first = torch.arange(batch)[:, None, None, None] % 2
            return seen & ((torch.arange(keys) >= first) | (torch.arange(keys) == at))
        if kind == "causal":
            return seen
        if kind == "seen":
            return seen.expand(batch, 1, queries, keys)
        hidden = torch.zeros(queries, keys, dtype=like.dtype).masked_fill(~seen, -1e4)
        if kind == "by head":
            return hidden * torch.arange(1, self.settings.heads + 1)[:, None, None].to(like.dtype)
        if kind == "whole numbers":
            return (~seen).long() * -10000
        if kind == "float64":
            return hidden.double()[None, None]
        if kind == "one dimension":
            return torch.arange(keys).to(like.dtype)
        if kind == "bonus":
            return seen
        return hidden[None, None].expand(batch, 1, queries, keys)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        of = self.settings
        mask = self._mask(q.shape[2], k.shape[2], q.shape[0], q)
        plain = of.cap is None and not of.sinks
        fits = of.mask not in ("whole numbers", "float64", "one dimension", "bonus")
        if of.whole and plain and fits:
            causal = of.mask == "flag"
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=causal, scale=of.scale
            ), None
        scores = q @ k.transpose(-1, -2) * (of.scale or of.width**-0.5)
        if of.cap is not None:
            scores = torch.tanh(scores / of.cap) * of.cap
        if mask is not None and mask.dtype == torch.bool and of.mask != "bonus":
            scores = scores.masked_fill(~mask, -torch.inf)
        elif mask is not None:
            scores = scores + mask
        if of.sinks:
            sink = self.sink[None, :, None, None].expand(*scores.shape[:3], 1)
            scores = torch.cat((scores, sink.to(scores.dtype)), -1)
        shares = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
        if of.sinks:
            shares = shares[..., :-1]
        return shares @ v, shares

    def forward(self, x: Tensor, positions: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        of = self.settings
        q, k, v = (
            self._heads(one(x), count)
            for one, count in ((self.q, of.heads), (self.k, of.kv_heads), (self.v, of.kv_heads))
        )
        if self.norm is not None:
            q, k = self.norm(q), self.norm(k)
        read = self._read(positions)
        k = self._turn(k, read)
        if of.positions == "written":
            positions.add_(1)
            read = positions
        q = self._turn(q, read)
        if of.cache == "written":
            at = torch.arange(k.shape[2])
            cache[0, :, : of.kv_heads].index_copy_(2, at, k.to(cache.dtype))
            cache[1, :, : of.kv_heads].index_copy_(2, at, v.to(cache.dtype))
            k, v = cache[0, :, : of.kv_heads].to(k.dtype), cache[1, :, : of.kv_heads].to(k.dtype)
        elif of.cache == "joined":
            k = torch.cat((cache[0, :, : of.kv_heads, :3].to(k.dtype), k), 2)
            v = torch.cat((cache[1, :, : of.kv_heads, :3].to(v.dtype), v), 2)
        result, shares = self._attend(q, self._repeat(k), self._repeat(v))
        out = self.o(result.transpose(1, 2).reshape(*x.shape[:2], of.heads * of.width))
        if of.returns == "scores" and shares is not None:
            return out, shares
        others = {"keys": k.transpose(1, 2), "positions": read[:, :1] + 1}
        return out, others.get(of.returns, x[:, -1])


def new_cache(settings: AttentionSettings, batch: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(2, batch, settings.heads, _LONGEST, settings.width, dtype=dtype)
