"""The gated activation and the 16-byte rule."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

from glmc_kunlun_emulator import EmulatedVendor, GuardError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 32), (3, 2, 32)])
def test_swiglu(vendor: EmulatedVendor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape).to(dtype)
    y = torch.empty((*shape[:-1], 16), dtype=dtype)
    vendor.kunlun_ops.swiglu(x, y)
    want = silu(x[..., :16].double()) * x[..., 16:].double()
    tolerance = 2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps / 2 * 1.01
    torch.testing.assert_close(y.double(), want, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize(
    ("width", "dtype", "allowed"),
    [
        (4, torch.float32, True),
        (6, torch.float32, False),
        (8, torch.float16, True),
        (12, torch.bfloat16, False),
    ],
)
def test_rows_must_be_a_multiple_of_16_bytes(
    vendor: EmulatedVendor, width: int, dtype: torch.dtype, allowed: bool
) -> None:
    x, y = torch.zeros(2, 2 * width, dtype=dtype), torch.empty(2, width, dtype=dtype)
    if allowed:
        vendor.kunlun_ops.swiglu(x, y)
    else:
        with pytest.raises(ValueError, match="multiple of 16"):
            vendor.kunlun_ops.swiglu(x, y)


def test_bad_calls(vendor: EmulatedVendor) -> None:
    x = torch.zeros(4, 16)
    for y in (torch.empty(4, 16), torch.empty(4, 8).half(), torch.empty(8, 4).t()):
        with pytest.raises(ValueError, match="Check 0 == ret failed"):
            vendor.kunlun_ops.swiglu(x, y)
    with pytest.raises(GuardError, match="partly"):
        vendor.kunlun_ops.swiglu(x, x.view(-1)[:32].view(4, 8))
    with pytest.raises(TypeError, match="swiglu"):
        vendor.kunlun_ops.swiglu(x=x, out=torch.empty(4, 8))
