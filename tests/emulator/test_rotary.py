"""Rotary embeddings against complex multiplication."""

from __future__ import annotations

import pytest
import torch

from glmc_kunlun_emulator import EmulatedVendor, GuardError

DIM, ROTARY, POSITIONS = 16, 8, 32


def make_cache(rotary: int = ROTARY, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    frequencies = 1.0 / 100.0 ** (torch.arange(rotary // 2) / (rotary // 2))
    angles = torch.arange(POSITIONS).unsqueeze(1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)


def reference(
    heads: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor, neox: bool
) -> torch.Tensor:
    """Pairs as complex numbers times e^(i angle), in float64; heads [T, heads, D]."""
    rotary = cache.shape[-1]
    turn = torch.complex(*cache.double().chunk(2, dim=-1))[positions].unsqueeze(1)
    part = heads[..., :rotary].double()
    if neox:
        pairs = torch.complex(part[..., : rotary // 2], part[..., rotary // 2 :]) * turn
        turned = torch.cat([pairs.real, pairs.imag], dim=-1)
    else:
        pairs = torch.complex(part[..., 0::2], part[..., 1::2]) * turn
        turned = torch.stack([pairs.real, pairs.imag], dim=-1).flatten(-2)
    return torch.cat([turned, heads[..., rotary:].double()], dim=-1)


@pytest.mark.parametrize("neox", [True, False])
@pytest.mark.parametrize("rotary", [ROTARY, DIM])
def test_in_place_and_partial(vendor: EmulatedVendor, neox: bool, rotary: int) -> None:
    query, key = torch.randn(5, 4, DIM), torch.randn(5, 2, DIM)
    positions = torch.tensor([3, 0, 31, 7, 7])
    cache = make_cache(rotary)
    want_query = reference(query, positions, cache, neox)
    want_key = reference(key, positions, cache, neox)
    flat_query, flat_key = query.view(5, 4 * DIM), key.view(5, 2 * DIM)
    result = vendor.kunlun_ops.rotary_embedding(positions, flat_query, flat_key, DIM, cache, neox)
    assert result is None
    torch.testing.assert_close(query.double(), want_query, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(key.double(), want_key, rtol=1e-6, atol=1e-6)


def test_low_precision_rounds_once(vendor: EmulatedVendor) -> None:
    query = torch.randn(5, 2 * DIM).to(torch.bfloat16)
    cache, positions = make_cache(dtype=torch.bfloat16), torch.arange(5)
    want = reference(query.view(5, 2, DIM), positions, cache, True).to(torch.bfloat16)
    vendor.kunlun_ops.rotary_embedding(positions, query, query.clone(), DIM, cache, True)
    torch.testing.assert_close(query.view(5, 2, DIM), want, rtol=0, atol=4e-3)


def test_bad_calls(vendor: EmulatedVendor) -> None:
    query, positions, cache = torch.randn(5, 2 * DIM), torch.arange(5), make_cache()
    good = dict(
        positions=positions, query=query, key=query.clone(), head_size=DIM, cos_sin_cache=cache,
        is_neox=True,
    )  # fmt: skip
    for broken in (
        dict(positions=positions.int()),
        dict(cos_sin_cache=cache.half()),
        dict(cos_sin_cache=make_cache(DIM * 2)),
        dict(query=query.view(5, 2, DIM)),
        dict(query=torch.randn(5, 4 * DIM)[:, : 2 * DIM]),
        dict(key=torch.randn(4, DIM)),
    ):
        with pytest.raises(ValueError, match="Check 0 == ret failed"):
            vendor.kunlun_ops.rotary_embedding(**{**good, **broken})
    with pytest.raises(GuardError, match="positions"):
        vendor.kunlun_ops.rotary_embedding(**{**good, "positions": positions + 28})
    with pytest.raises(GuardError, match="overlaps"):
        vendor.kunlun_ops.rotary_embedding(**{**good, "key": query})
