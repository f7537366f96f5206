"""Samplers: what may be drawn, and greedy verification of drafts."""

from __future__ import annotations

import pytest
import torch

from glmc_kunlun_emulator import EmulatedVendor

PROBS = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.05, 0.05, 0.1, 0.8]])


def drawn(ids: list[torch.Tensor], row: int) -> set[int]:
    return {int(draw[row]) for draw in ids}


def test_top_k(vendor: EmulatedVendor) -> None:
    top_k = torch.tensor([2, 1], dtype=torch.int32)
    ids = [vendor.kunlun_ops.top_k_sampling_from_probs(PROBS, top_k=top_k) for _ in range(60)]
    assert drawn(ids, 0) == {0, 2}
    assert drawn(ids, 1) == {3}


def test_top_p(vendor: EmulatedVendor) -> None:
    top_p = torch.tensor([0.79, 0.85])
    ids = [vendor.kunlun_ops.top_p_sampling_from_probs(PROBS, top_p=top_p) for _ in range(80)]
    assert drawn(ids, 0) == {0, 2}
    assert drawn(ids, 1) == {3, 2}


def test_both(vendor: EmulatedVendor) -> None:
    top_k = torch.tensor([4, 4], dtype=torch.int32)
    ids = [
        vendor.kunlun_ops.top_k_top_p_sampling_from_probs(PROBS, top_k=top_k, top_p=0.4)
        for _ in range(20)
    ]
    assert (drawn(ids, 0), drawn(ids, 1)) == ({0}, {3})
    for broken in (dict(top_k=top_k.long()), dict(probs=PROBS.half())):
        arguments = {**dict(probs=PROBS, top_k=top_k, top_p=0.4), **broken}
        with pytest.raises(ValueError, match="Check 0 == ret failed"):
            vendor.kunlun_ops.top_k_top_p_sampling_from_probs(**arguments)


def test_frequencies(vendor: EmulatedVendor) -> None:
    probs = PROBS[:1].repeat(4000, 1)
    ids = vendor.kunlun_ops.top_k_sampling_from_probs(probs, top_k=4)
    share = torch.bincount(ids.long(), minlength=4) / 4000
    torch.testing.assert_close(share, PROBS[0], rtol=0, atol=0.04)


def test_greedy_rejection(vendor: EmulatedVendor) -> None:
    output = torch.full((3, 3), -1, dtype=torch.int32)
    vendor.kunlun_ops.rejection_greedy_sample(
        output,
        torch.tensor([2, 4, 4], dtype=torch.int32),
        torch.tensor([5, 6, 7, 8], dtype=torch.int32),
        torch.tensor([5, 6, 9, 8], dtype=torch.int32),
        torch.tensor([1, 2, 3], dtype=torch.int32),
        None,
        2,
    )
    assert output.tolist() == [[5, 6, 1], [9, -1, -1], [3, -1, -1]]


def test_rows_that_are_not_greedy_are_left(vendor: EmulatedVendor) -> None:
    output = torch.full((2, 2), -1, dtype=torch.int32)
    vendor.kunlun_ops.rejection_greedy_sample(
        output, torch.tensor([1, 2]), torch.tensor([4, 4]), torch.tensor([4, 4]),
        torch.tensor([8, 9]), torch.tensor([True, False]), 1,
    )  # fmt: skip
    assert output.tolist() == [[4, 8], [-1, -1]]


def test_exponential_noise(vendor: EmulatedVendor) -> None:
    noise = torch.zeros(5000)
    vendor.xspeedgate_ops.inplace_exponential(noise)
    assert noise.min() > 0
    assert abs(float(noise.mean()) - 1) < 0.1
