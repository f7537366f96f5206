"""Norms against torch.nn.functional.rms_norm, and in-place forms."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import rms_norm

from glmc_kunlun_emulator import EmulatedVendor, GuardError, UnmodelledError

EPS = 1e-5
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def exact(x: torch.Tensor, weight: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    return rms_norm(x.double(), (x.shape[-1],), weight.double(), eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rmsnorm_rounds_once(vendor: EmulatedVendor, dtype: torch.dtype) -> None:
    x, weight = torch.randn(7, 24).to(dtype), torch.randn(24).to(dtype)
    output = torch.empty_like(x)
    vendor.kunlun_ops.rmsnorm(x, weight, output, 1e-6)
    want = exact(x, weight, 1e-6)
    tolerance = 2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps / 2 * 1.01
    torch.testing.assert_close(output.double(), want, rtol=tolerance, atol=1e-6)


def test_default_eps_is_1e_5(vendor: EmulatedVendor) -> None:
    x, weight = torch.randn(3, 8) * 1e-3, torch.ones(8)
    output = torch.empty_like(x)
    vendor.kunlun_ops.rmsnorm(x, weight, output)
    torch.testing.assert_close(output.double(), exact(x, weight), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("in_place", [True, False])
def test_add_rmsnorm(vendor: EmulatedVendor, dtype: torch.dtype, in_place: bool) -> None:
    x, y = torch.randn(5, 16).to(dtype), torch.randn(5, 16).to(dtype)
    weight, total = torch.randn(16).to(dtype), x + y
    output, residual = (x, y) if in_place else (torch.empty_like(x), torch.empty_like(y))
    vendor.kunlun_ops.add_rmsnorm(x, y, weight, output, EPS, residual_output=residual)
    assert torch.equal(residual, total)
    tolerance = 2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps / 2 * 1.01
    torch.testing.assert_close(output.double(), exact(total, weight), rtol=tolerance, atol=1e-6)


def test_crossed_outputs_are_refused(vendor: EmulatedVendor) -> None:
    x, y, weight = torch.randn(4, 16), torch.randn(4, 16), torch.ones(16)
    with pytest.raises(GuardError, match="overlaps y"):
        vendor.kunlun_ops.add_rmsnorm(x, y, weight, y, EPS, residual_output=x)
    with pytest.raises(GuardError, match="partly"):
        buffer = torch.randn(5, 16)
        vendor.kunlun_ops.add_rmsnorm(buffer[:4], y, weight, buffer[1:], EPS, residual_output=y)
    with pytest.raises(GuardError, match="overlaps x"):
        vendor.kunlun_ops.rmsnorm(x, weight, x)
    with pytest.raises(GuardError, match="residual_output"):
        vendor.kunlun_ops.add_rmsnorm(x, y, weight, x, EPS, residual_output=x)


def test_strided_and_odd_inputs_fail_as_the_vendor_does(vendor: EmulatedVendor) -> None:
    x, weight = torch.randn(4, 16), torch.ones(16)
    good = dict(x=x, weight=weight, output=torch.empty(4, 16))
    for broken in (
        dict(x=torch.randn(16, 4).t()),
        dict(x=torch.randn(4, 32)[:, :16]),
        dict(x=x.double()),
        dict(x=x.view(2, 2, 16), output=torch.empty(2, 2, 16)),
        dict(weight=weight.half()),
        dict(weight=torch.ones(8)),
        dict(output=torch.empty(3, 16)),
        dict(output=torch.empty(4, 16, dtype=torch.float16)),
    ):
        with pytest.raises(ValueError, match="Check 0 == ret failed"):
            vendor.kunlun_ops.rmsnorm(**{**good, **broken})


def test_a_bias_is_refused(vendor: EmulatedVendor) -> None:
    x, y, weight = torch.randn(4, 16), torch.randn(4, 16), torch.ones(16)
    bias, output = torch.full((16,), 100.0), torch.empty(4, 16)
    with pytest.raises(UnmodelledError, match="bias"):
        vendor.kunlun_ops.rmsnorm(x, weight, output, bias=bias)
    with pytest.raises(UnmodelledError, match="bias"):
        vendor.kunlun_ops.add_rmsnorm(x, y, weight, x, bias=bias, residual_output=y)
    assert vendor.calls == {"rmsnorm": 1, "add_rmsnorm": 1}


def test_poison_and_its_absence(vendor: EmulatedVendor, unguarded: EmulatedVendor) -> None:
    x, weight = torch.randn(4, 16), torch.ones(16)
    for face, want in ((vendor, float("nan")), (unguarded, 3.0)):
        output = torch.full((4, 16), 3.0)
        with pytest.raises(UnmodelledError):
            face.kunlun_ops.rmsnorm(x, weight, output, interweave=True)
        assert torch.equal(output.isnan().all(), torch.tensor(want != 3.0))
