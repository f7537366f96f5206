"""The emulated dense product (record, section 2.10).

int8 is absmax: the product is x_q @ w_q^T * x_max/127 * w_max/127. Int8 sums are exact; the rest is
float32 with one rounding at the end. One size is wrong without an error: a single fp16 row by
248320 or more columns (a public report names F.linear; assumed to hold for `matmul` too).
"""

from __future__ import annotations

import torch

from . import sums
from .contract import (
    FLOATS,
    emulates,
    refuse_unmodelled,
    require,
    require_dtype,
    require_shape,
)
from .quantise import INT8_MAX, int8_product

WRONG_COLUMNS = 248320


def _per_row_factor(
    place: str, name: str, absmax: torch.Tensor | None, rows: int
) -> torch.Tensor | None:
    if absmax is None:
        return None
    require_dtype(place, name, absmax, torch.float32)
    require(
        absmax.numel() == rows,
        f"{place}({name}=)",
        f"[{rows}] or [{rows}, 1] absmax values",
        tuple(absmax.shape),
    )
    return absmax.reshape(rows) / INT8_MAX


def _per_tensor_factor(place: str, name: str, absmax: torch.Tensor | None) -> torch.Tensor | None:
    if absmax is None:
        return None
    require_dtype(place, name, absmax, torch.float32)
    require(absmax.numel() == 1, f"{place}({name}=)", "one absmax value", tuple(absmax.shape))
    return absmax.reshape(1)[0] / INT8_MAX


def _matmul(
    place: str,
    x: torch.Tensor,
    w: torch.Tensor,
    out_dtype: torch.dtype,
    x_trans: bool,
    w_trans: bool,
    alpha: float,
    bias: torch.Tensor | None,
    x_max: torch.Tensor | None,
    w_max: torch.Tensor | None,
    x_pc_max: torch.Tensor | None,
    w_pc_max: torch.Tensor | None,
) -> torch.Tensor:
    require_dtype(place, "x", x, *FLOATS, torch.int8)
    require_dtype(place, "w", w, x.dtype)
    require(x.dim() == 2, f"{place}(x=)", "[M, K]", tuple(x.shape))
    require(w.dim() == 2, f"{place}(w=)", "[N, K]", tuple(w.shape))
    left = x.t() if x_trans else x
    right = w if w_trans else w.t()
    rows, columns = left.shape[0], right.shape[0]
    require(
        left.shape[1] == right.shape[1],
        f"{place}(w=)",
        f"[N, {left.shape[1]}]" if w_trans else f"[{left.shape[1]}, N]",
        tuple(w.shape),
    )
    quantised = x.dtype == torch.int8
    if bias is not None:
        require_shape(place, "bias", bias, (columns,))
        require_dtype(
            place, "bias", bias, *((torch.float32,) if quantised else (torch.float32, x.dtype))
        )
    if not quantised:
        refuse_unmodelled(
            place,
            x_max=(x_max, None),
            w_max=(w_max, None),
            x_pc_max=(x_pc_max, None),
            w_pc_max=(w_pc_max, None),
        )
        require(out_dtype == x.dtype, f"{place}(out=)", str(x.dtype), out_dtype)
        product = sums.product(left, right)
        if x.dtype == torch.float16 and rows == 1 and columns >= WRONG_COLUMNS:
            product = product.roll(1, dims=-1)
    else:
        require(
            out_dtype in (torch.float16, torch.bfloat16),
            f"{place}(out=)",
            "fp16 or bf16 for int8 inputs",
            out_dtype,
        )
        x_row = _per_row_factor(place, "x_pc_max", x_pc_max, rows)
        x_all = _per_tensor_factor(place, "x_max", x_max)
        w_row = _per_row_factor(place, "w_pc_max", w_pc_max, columns)
        w_all = _per_tensor_factor(place, "w_max", w_max)
        require(
            (x_row is None) != (x_all is None) and (w_row is None) != (w_all is None),
            place,
            "one of x_max, x_pc_max and one of w_max, w_pc_max for int8 inputs",
            [n for n, f in (("x_max", x_all), ("x_pc_max", x_row)) if f is not None]
            + [n for n, f in (("w_max", w_all), ("w_pc_max", w_row)) if f is not None],
        )
        product = int8_product(left, right)
        if x_row is not None:
            x_row = x_row.unsqueeze(-1)
        for factor in (x_row, x_all, w_row, w_all):
            product = product if factor is None else product * factor
        product = product.float()
    product = product * alpha if alpha != 1 else product
    return product if bias is None else product + bias.float()


@emulates("matmul")
def matmul(
    x: torch.Tensor,
    w: torch.Tensor,
    out: torch.Tensor,
    x_trans: bool,
    w_trans: bool,
    alpha: float,
    beta: float,
    bias: torch.Tensor | None,
    x_max: torch.Tensor | None,
    w_max: torch.Tensor | None,
    x_pc_max: torch.Tensor | None,
    w_pc_max: torch.Tensor | None,
) -> None:
    """out [M, N] = alpha * x [M, K] @ w [N, K]^T + beta * out + bias [N].

    int8: per-row absmax x_pc_max fp32 [M] or [M, 1], w_pc_max fp32 [N] or [N, 1] (or the per-tensor
    x_max, w_max); out fp16 or bf16; the bias must be fp32.
    """
    product = _matmul(
        "matmul", x, w, out.dtype, x_trans, w_trans, alpha, bias, x_max, w_max, x_pc_max, w_pc_max
    )
    require_shape("matmul", "out", out, tuple(product.shape))
    out.copy_(product if beta == 0 else product + beta * out.float())
