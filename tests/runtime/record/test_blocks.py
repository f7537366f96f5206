"""Parts of a tensor that are copied one after the other."""

from __future__ import annotations

from math import prod

import pytest
import torch

from glmc_runtime.record.blocks import blocks


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 0), (4, 5), (2, 3, 4), (1, 1, 9, 2)])
@pytest.mark.parametrize("largest", [1, 3, 8, 100])
def test_each_element_is_in_one_part(shape: tuple[int, ...], largest: int) -> None:
    seen = torch.zeros(shape)
    for slices in blocks(shape, largest):
        assert seen[slices].numel() <= largest
        seen[slices] += 1
    assert seen.sum() == prod(shape) and bool((seen == 1).all())


def test_parts_are_in_order_and_no_smaller_than_they_must_be() -> None:
    parts = list(blocks((6, 10), 20))
    assert [part[0] for part in parts] == [slice(0, 2), slice(2, 4), slice(4, 6)]
