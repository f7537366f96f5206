"""Rotate heads of any strides, in one launch, with or without a norm of each head in front.

For a traced program, whose heads are views of what it made itself. The table of the step's
positions is made by plain torch calls, once for all layers: they write into given memory and know
no device, so that a device graph holds them as well.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import triton
import triton.language as tl

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register_traced
from glmc_runtime.kernels.checks import (
    in_order,
    optional,
    power_of_two,
    require_dtype,
    require_one_device,
    require_shape,
)
from glmc_runtime.kernels.cpu.rope import rope_table
from glmc_runtime.kernels.cuda import qkv_rope_cache
from glmc_runtime.kernels.cuda.launch import launch, pdl_enabled
from glmc_runtime.kernels.cuda.rotary import (
    load_partners,
    load_waves,
    norm_rotate,
    partner_columns,
)
from glmc_runtime.kernels.cuda.side_by_side import side_by_side

register_traced("cuda.rope_table")(rope_table)


@triton.jit(do_not_specialize=["tokens", "rows"])
def rope_kernel(
    x,
    weight,
    table,
    out,
    tokens,
    rows,
    sequence_stride,
    token_stride,
    head_stride,
    eps,
    ALL: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROTARY: tl.constexpr,
    HEADS: tl.constexpr,
    NORM: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    PDL: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * HEADS + tl.arange(0, HEADS))[:, None]
    columns = tl.arange(0, WIDTH)[None, :]
    in_head = columns < HEAD_DIM
    inside = (head < ALL) & in_head
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    own_weight, other_weight = 1.0, 1.0
    if NORM:
        others = partner_columns(columns, ROTARY, INTERLEAVED)
        own_weight = tl.load(weight + columns, mask=in_head, other=0.0)
        other_weight = tl.load(weight + others, mask=in_head, other=0.0)
    cos, sin = load_waves(table + token % rows * ROTARY, columns, ROTARY, INTERLEAVED)
    source = x + token // tokens * sequence_stride + token % tokens * token_stride
    source += head.to(tl.int64) * head_stride
    heads = tl.load(source + columns, mask=inside, other=0.0)
    partners = load_partners(source, heads, columns, inside, HEAD_DIM, ROTARY, INTERLEAVED)
    rotated = norm_rotate(
        heads, partners, own_weight, other_weight, eps, cos, sin, columns, NORM, HEAD_DIM, ROTARY
    )
    tl.store(out + (token * ALL + head) * HEAD_DIM + columns, rotated, mask=inside)


@register_traced("cuda.rope")
def rope(arguments: dict[str, Any]) -> Thunk:
    """x [batch, tokens, heads, head_dim] of any strides -> out like x, contiguous.

    table [batch or 1 * tokens, rotary_dim] of ``cuda.rope_table``. With ``weight`` [head_dim] each
    head is normed first.
    """
    x, out, table = arguments["x"], arguments["out"], arguments["table"]
    weight = optional(arguments, "weight")
    batch, tokens, heads, head_dim = x.shape
    rows, rotary = table.shape
    require_dtype("x", x)
    require_shape("out", out, tuple(x.shape))
    require_shape("table", table, (rows, rotary))
    for name, tensor in (("out", out), ("table", table), ("weight", weight)):
        if tensor is not None:
            require_dtype(name, tensor, x.dtype)
    if weight is not None:
        require_shape("weight", weight, (head_dim,))
    if rotary % 2 or not 0 < rotary <= head_dim or rows not in (tokens, batch * tokens):
        raise PlanError(
            "the table of rope does not fit the heads",
            expected=f"{tokens} or {batch * tokens} rows, an even number of columns up to "
            f"{head_dim}",
            found=str(list(table.shape)),
        )
    require_one_device(x, weight, table, out)
    steps: list[Thunk] = []
    x = side_by_side(x, steps)
    configuration = qkv_rope_cache.default(heads, batch * tokens)
    rotate = partial(
        launch,
        rope_kernel,
        (batch * tokens, triton.cdiv(heads, configuration["HEADS"])),
        x,
        x if weight is None else weight,
        table,
        out,
        tokens,
        rows,
        *x.stride()[:3],
        0.0 if weight is None else float(arguments["eps"]),
        ALL=heads,
        HEAD_DIM=head_dim,
        WIDTH=max(16, power_of_two(head_dim)),
        ROTARY=rotary,
        HEADS=configuration["HEADS"],
        NORM=weight is not None,
        INTERLEAVED=bool(arguments["interleaved"]),
        num_warps=configuration["num_warps"],
        enable_fp_fusion=False,  # eager code rounds each product
        pdl=pdl_enabled(out.device),
    )
    return in_order(*steps, rotate) if steps else rotate
