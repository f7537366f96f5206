"""How the emulator adds up: as torch does, or, for an ordered face, in an order that follows from
the length of a sum alone, so that no number follows the rest of its batch.

In which order the vendor's own kernels add is not known. An ordered face models none of them; it
shows that a plan keeps its promise where the kernels do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from glmc_runtime.kernels.ordered import native

from .contract import refuse_unmodelled

_ORDERED: ContextVar[bool] = ContextVar("ordered", default=False)


@contextmanager
def adding(ordered: bool) -> Iterator[None]:
    """Meanwhile sums are ``ordered``, or torch's."""
    token = _ORDERED.set(ordered)
    try:
        yield
    finally:
        _ORDERED.reset(token)


def is_ordered() -> bool:
    """Whether sums have an order of their own now."""
    return _ORDERED.get()


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [M, K] @ weight [N, K]^T in float32."""
    left, right = x.float(), weight.float()
    if not is_ordered():
        return torch.matmul(left, right.t())
    out = left.new_empty(left.shape[0], right.shape[0])
    native.product(left.contiguous(), right.contiguous(), out)()
    return out


def normalised(x: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension, in float32."""
    values = x.float()
    if not is_ordered():
        return values * torch.rsqrt(values.square().mean(dim=-1, keepdim=True) + eps)
    rows = values.contiguous().view(-1, values.shape[-1])
    out = torch.empty_like(rows)
    native.norm(rows, torch.ones_like(rows[0]), eps, out)()
    return out.view(values.shape)


def silu_times(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up in float32."""
    gate, up = gate.float(), up.float()
    if not is_ordered():
        return torch.nn.functional.silu(gate) * up
    rows = [part.contiguous().view(-1, part.shape[-1]) for part in (gate, up)]
    out = torch.empty_like(rows[0])
    native.gated(rows[0], rows[1], out)()
    return out.view(gate.shape)


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """Of float32."""
    if not is_ordered():
        return x.sigmoid()
    scores = x.clone(memory_format=torch.contiguous_format)
    native.sigmoid(scores)()
    return scores


def of_slots(values: torch.Tensor) -> torch.Tensor:
    """values float32 [M, k] -> [M, 1]: the sum of each row."""
    if not is_ordered():
        return values.sum(dim=-1, keepdim=True)
    first, *others = values.split(1, dim=-1)
    total: torch.Tensor = first.clone()
    for other in others:
        total += other
    return total


def weighted(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """rows float32 [M, k, H] times scale [M, k], summed over k."""
    if not is_ordered():
        return (rows * scale.unsqueeze(-1)).sum(dim=1)
    tokens, slots, size = rows.shape
    out = rows.new_empty(tokens, size)
    native.combine(rows.contiguous().view(tokens, slots, 1, size), scale.contiguous(), out)()
    return out


def causal(
    place: str,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: list[int],
    scale: float,
    unmodelled: Mapping[str, tuple[Any, Any]],
) -> torch.Tensor:
    """Ordered attention of the last ``Lq`` of ``lengths`` tokens of each request: query
    [B, Lq, Hq, D], keys and values [B, Lk, Hkv, D] -> float32 [B, Lq, Hq, D]. ``unmodelled``:
    keywords that have no ordered form, with the values at which they do nothing."""
    refuse_unmodelled(place, **unmodelled)
    batch, length, heads, dim = query.shape
    out = torch.empty(batch * length, heads, dim)
    native.attention(
        query.float().reshape(batch * length, heads, dim).contiguous(),
        (keys.float().contiguous(), values.float().contiguous()),
        torch.arange(batch, dtype=torch.int32).unsqueeze(1),
        torch.arange(batch + 1, dtype=torch.int32) * length,
        torch.tensor(lengths, dtype=torch.int32),
        scale,
        out,
    )()
    return out.view(batch, length, heads, dim)
