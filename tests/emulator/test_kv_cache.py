"""Cache writes against a loop over tokens, and what negative slots do."""

from __future__ import annotations

import pytest
import torch

from glmc_kunlun_emulator import EmulatedVendor, GuardError

BLOCKS, HEADS, BLOCK, DIM = 3, 2, 4, 32


def make_caches(blhd: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (BLOCKS, BLOCK, HEADS, DIM) if blhd else (BLOCKS, HEADS, BLOCK, DIM)
    both = torch.zeros(2, *shape)
    return both[0], both[1]


@pytest.mark.parametrize("blhd", [False, True])
@pytest.mark.parametrize("slot_dtype", [torch.int32, torch.int64])
def test_scatter(vendor: EmulatedVendor, blhd: bool, slot_dtype: torch.dtype) -> None:
    key, value = torch.randn(4, HEADS, DIM), torch.randn(4, HEADS, DIM)
    key_cache, value_cache = make_caches(blhd)
    slots = torch.tensor([9, 0, 3, 4, 7, 7], dtype=slot_dtype)  # longer than key: the tail is idle
    vendor.kunlun_ops.reshape_and_cache_flash(
        key, value, key_cache, value_cache, slots, BLHD_LAYOUT=blhd
    )
    for source, cache in ((key, key_cache), (value, value_cache)):
        want = torch.zeros_like(cache)
        for token in range(4):
            block, offset = divmod(int(slots[token]), BLOCK)
            for head in range(HEADS):
                place = (block, offset, head) if blhd else (block, head, offset)
                want[place] = source[token, head]
        assert torch.equal(cache, want)


@pytest.mark.parametrize("slot", [-1, BLOCKS * BLOCK])
def test_slots_outside_are_refused(vendor: EmulatedVendor, slot: int) -> None:
    key = torch.randn(1, HEADS, DIM)
    with pytest.raises(GuardError, match="scratch block"):
        vendor.kunlun_ops.reshape_and_cache_flash(
            key, key.clone(), *make_caches(), torch.tensor([slot])
        )


def test_negative_slots_overwrite_without_the_guard(unguarded: EmulatedVendor) -> None:
    key_cache, value_cache = make_caches()
    key = torch.ones(1, HEADS, DIM)
    unguarded.kunlun_ops.reshape_and_cache_flash(
        key, key.clone(), key_cache, value_cache, torch.tensor([-1])
    )
    assert key_cache[BLOCKS - 1, :, BLOCK - 1].eq(1).all()


def test_bad_calls(vendor: EmulatedVendor) -> None:
    key_cache, value_cache = make_caches()
    key, slots = torch.randn(2, HEADS, DIM), torch.tensor([0, 1])
    good = dict(
        key=key, value=key.clone(), key_cache=key_cache, value_cache=value_cache,
        slot_mapping=slots,
    )  # fmt: skip
    odd = torch.zeros(BLOCKS, HEADS, BLOCK, 48)
    for broken in (
        dict(slot_mapping=slots[:1]),
        dict(slot_mapping=slots.float()),
        dict(key=torch.randn(2, 2 * HEADS, DIM)[:, ::2]),
        dict(key=key.half()),
        dict(key_cache=key_cache.half()),
        dict(key_cache=odd, key=torch.randn(2, HEADS, 48)),
        dict(key=torch.randn(2, HEADS + 1, DIM)),
        dict(key_cache=torch.zeros(BLOCKS, 2, HEADS, BLOCK, DIM)[:, 0]),
    ):
        with pytest.raises(ValueError, match="Check 0 == ret failed"):
            vendor.kunlun_ops.reshape_and_cache_flash(**{**good, **broken})


def test_caches_are_never_poisoned(vendor: EmulatedVendor) -> None:
    key_cache, value_cache = make_caches()
    key = torch.randn(1, HEADS, DIM)
    vendor.kunlun_ops.reshape_and_cache_flash(
        key, key.clone(), key_cache, value_cache, torch.tensor([0])
    )
    assert not key_cache.isnan().any()
