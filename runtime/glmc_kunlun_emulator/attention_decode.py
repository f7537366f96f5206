"""Emulated decode attention: `speculative_attention` and `paged_attention` (record, section 2.6).

The lengths that count are the host's (`*_cpu`); in guard mode a device copy that differs is
refused, because a kernel may read either. `speculative_attention` fails from 1024 requests on (only
exactly 1024 is recorded; everything above is our caution).
"""

from __future__ import annotations

import torch

from glmc_runtime.kernels.vendor_functions.row import Arguments

from .attention_core import decode, require_heads
from .contract import (
    FLOATS,
    emulates,
    refuse_unmodelled,
    require,
    require_dtype,
    require_guard,
    require_shape,
)
from .kv_cache import require_cache

FAILING_BATCH = 1024


def guard_lengths(arguments: Arguments) -> None:
    """Host and device copies of every length vector must agree."""
    for name, host in arguments.items():
        if not name.endswith("_cpu") or host is None:
            continue
        device = arguments.get(f"{name[:-4]}_xpu")
        if device is None:
            continue
        require_guard(
            torch.equal(host, device.cpu()),
            f"{name} / {name[:-4]}_xpu",
            f"the same numbers, {host.tolist()} on the host",
            f"{device.tolist()} on the device",
            "update both copies in each step; a captured call freezes the host's",
        )


def _guard_decode(arguments: Arguments) -> None:
    guard_lengths(arguments)
    shortest = min(arguments["context_lens_cpu"].tolist(), default=1)
    length = arguments.get("qlen", 1)
    require_guard(
        shortest >= length,
        "context_lens_cpu",
        f"lengths that include the {length} new tokens",
        shortest,
        "give padded rows one token in a scratch block",
    )


@emulates("speculative_attention", guard=_guard_decode)
def speculative_attention(
    out: torch.Tensor,
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    context_lens_cpu: torch.Tensor,
    context_lens_xpu: torch.Tensor,
    batch_num: int,
    qlen: int,
    max_context_len: int,
    head_num: int,
    head_dim: int,
    scale: float,
    kv_head_num: int,
    block_size: int,
    max_num_blocks_per_seq: int,
    block_tables: torch.Tensor,
    max_window_size: int = -1,
    sink: torch.Tensor | None = None,
    qlod_cpu: torch.Tensor | None = None,
    qlod_xpu: torch.Tensor | None = None,
) -> None:
    """Decode and MTP verify. q [1, B, Hq, D] for qlen 1, [B, qlen, Hq, D] else; scale 0.0 means
    1/sqrt(D), any other value is the scale itself; lengths include the new tokens. Uniform query
    lods only; ragged ones are not modelled.
    """
    place = "speculative_attention"
    if qlod_cpu is not None:
        uniform = [row * qlen for row in range(batch_num + 1)]
        refuse_unmodelled(place, qlod_cpu=(qlod_cpu.tolist(), uniform))
    require(
        batch_num < FAILING_BATCH,
        f"{place}(batch_num=)",
        f"fewer than {FAILING_BATCH} requests",
        batch_num,
        "split the batch at 512",
    )
    require_dtype(place, "q", q, *FLOATS)
    expected = (1, batch_num, head_num, head_dim) if qlen == 1 and q.shape[0] == 1 else None
    require_shape(place, "q", q, expected or (batch_num, qlen, head_num, head_dim))
    require_dtype(place, "out", out, q.dtype)
    require(out.numel() == q.numel(), f"{place}(out=)", f"{q.numel()} elements", tuple(out.shape))
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        require_cache(place, name, cache)
        require_dtype(place, name, cache, q.dtype)
        require_shape(place, name, cache, (k_cache.shape[0], kv_head_num, block_size, head_dim))
    require_shape(place, "block_tables", block_tables, (batch_num, max_num_blocks_per_seq))
    for name, lens in (
        ("context_lens_cpu", context_lens_cpu),
        ("context_lens_xpu", context_lens_xpu),
    ):
        require_dtype(place, name, lens, torch.int32)
        require_shape(place, name, lens, (batch_num,))
    require_heads(place, "sink", sink, head_num)
    lengths = context_lens_cpu.tolist()
    require(
        max(lengths, default=0) <= max_context_len,
        f"{place}(max_context_len=)",
        f"at least {max(lengths, default=0)}",
        max_context_len,
    )
    result = decode(
        place,
        q.view(batch_num, qlen, head_num, head_dim),
        k_cache,
        v_cache,
        block_tables,
        lengths,
        head_dim**-0.5 if scale == 0.0 else scale,
        max_window_size,
        sink,
    )
    out.view(result.shape).copy_(result)


@emulates("paged_attention", guard=_guard_decode)
def paged_attention(
    out: torch.Tensor,
    x: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens_cpu: torch.Tensor,
    context_lens_xpu: torch.Tensor,
    vo_head_dim: int,
) -> None:
    """Plain decode, one new token a request: x [B, Hq, D] (or [B, 1, Hq, D]), no scale argument, so
    1/sqrt(D). The form for latent caches (v_cache None) is not modelled.
    """
    place = "paged_attention"
    require_dtype(place, "x", x, *FLOATS)
    require_dtype(place, "context_lens_cpu", context_lens_cpu, torch.int32)
    require_dtype(place, "context_lens_xpu", context_lens_xpu, torch.int32)
    batch, heads, dim = context_lens_cpu.shape[0], x.shape[-2], x.shape[-1]
    require(x.numel() == batch * heads * dim, f"{place}(x=)", f"[{batch}, Hq, D]", tuple(x.shape))
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        require_cache(place, name, cache)
        require_dtype(place, name, cache, x.dtype)
        require_shape(place, name, cache, (*k_cache.shape[:3], dim))
    require(vo_head_dim in (-1, dim), f"{place}(vo_head_dim=)", f"the head size {dim}", vo_head_dim)
    result = decode(
        place,
        x.view(batch, 1, heads, dim),
        k_cache,
        v_cache,
        block_tables,
        context_lens_cpu.tolist(),
        dim**-0.5,
    )
    require_dtype(place, "out", out, x.dtype)
    require(
        out.numel() == result.numel(),
        f"{place}(out=)",
        f"{tuple(result.shape)}",
        tuple(out.shape),
    )
    out.view(result.shape).copy_(result)
