"""Cache writes against a loop over tokens, and what negative slots do."""

from __future__ import annotations

import pytest
import torch

from glmc_kunlun_emulator import EmulatedVendor, GuardError, UnmodelledError, load

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


def test_both_ops_agree(vendor: EmulatedVendor) -> None:
    key, value = torch.randn(2, HEADS, DIM), torch.randn(2, HEADS, DIM)
    slots = torch.tensor([5, 2])
    first, second = make_caches(), make_caches()
    vendor.kunlun_ops.reshape_and_cache_flash(key, value, *first, slots)
    vendor.kunlun_ops.reshape_and_cache(key, value, *second, slots, None, None, 0)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    with pytest.raises(UnmodelledError, match="k_perchannel_max"):
        vendor.kunlun_ops.reshape_and_cache(key, value, *second, slots, torch.ones(2))


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


def test_latent_rows_and_their_argument_order(vendor: EmulatedVendor) -> None:
    latent, rope, slots = torch.randn(2, 24), torch.randn(2, 8), torch.tensor([5, 1])
    cache = torch.zeros(2, 4, 32)
    vendor.kunlun_ops.concat_and_cache_mla(latent, rope, slots, cache)
    torch.testing.assert_close(cache[1, 1], torch.cat([latent[0], rope[0]]))
    torch.testing.assert_close(cache[0, 1], torch.cat([latent[1], rope[1]]))
    with pytest.raises(ValueError, match="Check 0 == ret failed"):
        vendor.kunlun_ops.concat_and_cache_mla(latent, rope, cache, slots)


def test_block_moves(vendor: EmulatedVendor) -> None:
    keys, values = [torch.randn(3, 4)], [torch.randn(3, 4)]
    before = keys[0].clone()
    vendor.kunlun_ops.copy_blocks(keys, values, torch.tensor([[0, 2]]))
    assert torch.equal(keys[0][2], before[0])
    target = torch.zeros(3, 4)
    vendor.kunlun_ops.swap_blocks(keys[0], target, torch.tensor([[1, 0]]))
    assert torch.equal(target[0], before[1])
    with pytest.raises(ValueError, match="Check 0 == ret failed"):
        vendor.kunlun_ops.copy_blocks(keys, values, torch.tensor([0, 2]))


def test_slot_mappings_exist_only_on_p_c() -> None:
    for profile in ("P-A", "P-B"):
        assert not hasattr(load(profile).kunlun_ops, "compute_slot_mappings")
    tables = torch.tensor([[7, 5], [2, 0]], dtype=torch.int32)
    slots = torch.full((8,), 99)
    load("P-C").kunlun_ops.compute_slot_mappings(
        [slots], [tables], torch.tensor([3, 4, 0]), torch.tensor([0, 2, 3], dtype=torch.int32),
        torch.tensor([4], dtype=torch.int32), 2, 3, -1, 1, 0, 1,
    )  # fmt: skip
    assert slots.tolist() == [7 * 4 + 3, 5 * 4, 2 * 4, -1, -1, -1, -1, -1]
