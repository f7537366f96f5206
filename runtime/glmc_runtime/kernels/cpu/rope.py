"""Rotate heads of any strides: the table of the step's positions, then rope with or without a
norm of each head in front."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from glmc_runtime.kernels import Thunk, register_traced
from glmc_runtime.kernels.checks import in_order, optional, require_dtype, require_shape
from glmc_runtime.kernels.cpu.norms import normalize
from glmc_runtime.kernels.cpu.qkv_rope_cache import rotate


@register_traced("cpu.rope_table")
def rope_table(arguments: dict[str, Any]) -> Thunk:
    """positions int64 [rows], frequencies [half] -> out [rows, 2 * half]: cos, then sin, times
    ``scaling``. angles and waves: float32 scratch [rows, half]. Rounded as in eager code: in
    float32, cast at the end.
    """
    positions, frequencies = arguments["positions"], arguments["frequencies"]
    angles, waves, out = arguments["angles"], arguments["waves"], arguments["out"]
    rows, half = angles.shape
    require_dtype("positions", positions, torch.int64)
    require_dtype("frequencies", frequencies, torch.float32)
    require_shape("positions", positions, (rows,))
    require_shape("out", out, (rows, 2 * half))
    scaling = float(arguments["scaling"])
    steps: list[Thunk] = [partial(torch.mul, positions[:, None], frequencies[None], out=angles)]
    for function, target in ((torch.cos, out[:, :half]), (torch.sin, out[:, half:])):
        steps.append(partial(function, angles, out=waves))
        if scaling != 1.0:
            steps.append(partial(waves.mul_, scaling))
        steps.append(partial(target.copy_, waves))
    return in_order(*steps)


@register_traced("cpu.rope")
def rope(arguments: dict[str, Any]) -> Thunk:
    """x [batch, tokens, heads, head_dim] of any strides -> out like x, contiguous.

    table [batch or 1 * tokens, rotary_dim] of :func:`rope_table`; product [batch, tokens, heads,
    rotary_dim / 2]. With ``weight`` [head_dim] each head is normed first: scratch normed like out,
    and in float32 hidden and square like out and variance [batch, tokens, heads, 1].
    """
    x, out, table = arguments["x"], arguments["out"], arguments["table"]
    tokens, rotary_dim = x.shape[1], table.shape[1]
    require_dtype("x", x)
    require_shape("out", out, tuple(x.shape))
    steps: list[Thunk] = []
    weight = optional(arguments, "weight")
    if weight is not None:
        require_shape("weight", weight, (x.shape[-1],))
        floats = (arguments[name] for name in ("hidden", "square", "variance"))
        normed = arguments["normed"]
        steps.append(normalize(x, weight, float(arguments["eps"]), normed, *floats))
        x = normed
    rows = table.view(-1, tokens, rotary_dim)
    steps += rotate(x, out, rows, arguments["product"], bool(arguments["interleaved"]))
    return in_order(*steps)
