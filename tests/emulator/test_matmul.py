"""Products: the absmax rule, accumulation, the size that is wrong."""

from __future__ import annotations

import pytest
import torch

from glmc_kunlun_emulator import EmulatedVendor, UnmodelledError

from .absmax import quantise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_plain_product(vendor: EmulatedVendor, dtype: torch.dtype) -> None:
    x, w, bias = torch.randn(5, 24).to(dtype), torch.randn(7, 24).to(dtype), torch.randn(7)
    out = torch.empty(5, 7, dtype=dtype)
    vendor.kunlun_ops.matmul(x, w, out, bias=bias)
    want = x.double() @ w.double().t() + bias
    tolerance = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), want, rtol=tolerance, atol=tolerance)


def test_alpha_beta_and_transposes(vendor: EmulatedVendor) -> None:
    x, w, out = torch.randn(24, 5), torch.randn(24, 7), torch.randn(5, 7)
    want = 0.5 * x.t() @ w + 2.0 * out
    vendor.kunlun_ops.matmul(x, w, out, x_trans=True, w_trans=False, alpha=0.5, beta=2.0)
    torch.testing.assert_close(out, want)


def test_output_is_poisoned_unless_it_is_read(vendor: EmulatedVendor) -> None:
    x, w, out = torch.randn(2, 8), torch.randn(3, 8), torch.ones(2, 3)
    with pytest.raises(ValueError, match="bias"):
        vendor.kunlun_ops.matmul(x, w, out, bias=torch.zeros(4))
    assert out.isnan().all()
    out.fill_(1)
    with pytest.raises(ValueError, match="bias"):
        vendor.kunlun_ops.matmul(x, w, out, beta=1.0, bias=torch.zeros(4))
    assert out.eq(1).all()


def test_int8_product(vendor: EmulatedVendor) -> None:
    x, w, bias = torch.randn(6, 64), torch.randn(9, 64), torch.randn(9)
    (x_q, x_max), (w_q, w_max) = quantise(x), quantise(w)
    out = torch.empty(6, 9, dtype=torch.bfloat16)
    vendor.kunlun_ops.matmul(x_q, w_q, out, bias=bias, x_pc_max=x_max, w_pc_max=w_max)
    want = (x_q.double() * x_max / 127) @ (w_q.double() * w_max / 127).t() + bias
    torch.testing.assert_close(out.double(), want, rtol=4e-3, atol=1e-5)
    assert (out - (x @ w.t() + bias)).norm() / want.norm() < 0.03


def test_per_tensor_absmax(vendor: EmulatedVendor) -> None:
    x = torch.randint(-127, 128, (2, 16), dtype=torch.int8)
    w = torch.randint(-127, 128, (3, 16), dtype=torch.int8)
    out = torch.empty(2, 3, dtype=torch.float16)
    one = torch.tensor([1.0])
    vendor.kunlun_ops.matmul(x, w, out, x_max=one, w_max=one.clone())
    torch.testing.assert_close(
        out.double(), (x.double() @ w.double().t()) / 127**2, rtol=1e-3, atol=1e-5
    )


def test_int8_contract(vendor: EmulatedVendor) -> None:
    (x_q, x_max), (w_q, w_max) = (quantise(torch.randn(4, 16)) for _ in range(2))
    good = dict(
        x=x_q, w=w_q, out=torch.empty(4, 4, dtype=torch.float16), x_pc_max=x_max, w_pc_max=w_max
    )
    for broken in (
        dict(bias=torch.zeros(4, dtype=torch.float16)),
        dict(out=torch.empty(4, 4)),
        dict(x_pc_max=None),
        dict(w_pc_max=None),
        dict(x_pc_max=x_max.half()),
        dict(w_pc_max=w_max[:3].contiguous()),
        dict(x_max=torch.ones(1)),
        dict(w=torch.randn(4, 16)),
    ):
        with pytest.raises(ValueError, match="Check 0 == ret failed"):
            vendor.kunlun_ops.matmul(**{**good, **broken})
    with pytest.raises(UnmodelledError, match="x_pc_max"):
        vendor.kunlun_ops.matmul(
            torch.zeros(1, 4), torch.zeros(2, 4), torch.empty(1, 2), x_pc_max=torch.ones(1)
        )


def test_one_half_precision_row_by_a_whole_vocabulary_is_wrong(vendor: EmulatedVendor) -> None:
    columns = 248320
    w = torch.randn(columns, 2).half()
    for rows, width, dtype, right in (
        (1, columns, torch.float16, False),
        (2, columns, torch.float16, True),
        (1, columns - 1, torch.float16, True),
        (1, columns, torch.bfloat16, True),
    ):
        x, weight = torch.ones(rows, 2, dtype=dtype), w[:width].to(dtype)
        out = torch.empty(rows, width, dtype=dtype)
        vendor.kunlun_ops.matmul(x, weight, out)
        assert out.isfinite().all()
        want = (x.float() @ weight.float().t()).to(dtype)
        assert torch.equal(out, want) is right


def test_strided_weight_fails(vendor: EmulatedVendor) -> None:
    with pytest.raises(ValueError, match="contiguous"):
        vendor.kunlun_ops.matmul(torch.zeros(2, 4), torch.zeros(4, 3).t(), torch.empty(2, 3))
