"""The quick interpreter finds the overflow of an integer op."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from tests.support.interpreted import quick_interpreter

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled")


@triton.jit
def _sums(x, y, out):
    place = tl.arange(0, 4)
    tl.store(out + place, tl.load(x + place) + tl.load(y + place))


@pytest.mark.parametrize("last", [0, 1])
def test_an_overflow(last: int) -> None:
    x = torch.tensor([1, 2, 3, 2**31 - 1], dtype=torch.int32)
    y, out = torch.tensor([5, 6, 7, last], dtype=torch.int32), torch.empty_like(x)
    with quick_interpreter():
        if last:
            with pytest.raises(Exception, match="overflow"):
                _sums[(1,)](x, y, out)
        else:
            _sums[(1,)](x, y, out)
            assert torch.equal(out, x + y)
