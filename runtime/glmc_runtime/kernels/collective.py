"""Collectives of a plan: what all ranks of the current group do together."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import in_order
from glmc_runtime.kernels.cpu.norms import NORM, add_rms_norm
from glmc_runtime.kernels.group import current_group
from glmc_runtime.kernels.schema import ANY_DTYPE, schema, scratch, tensor, written


@register("collective.all_reduce", schema(written("x", "...", reads=True)))
def all_reduce(arguments: dict[str, Any]) -> Thunk:
    """``x`` becomes the sum of the ``x`` of all ranks, the same bits on each of them."""
    return current_group().all_reduce_of(arguments["x"])


@register(
    "collective.all_reduce_add_rms_norm",
    schema(
        written("x", "rows width", reads=True),
        tensor("residual", "rows width", like="x"),
        written("out", "rows width", like="x"),
        written("total", "rows width", like="x"),
        *NORM,
        aliases=(("total", "residual"),),
    ),
)
def all_reduce_add_rms_norm(arguments: dict[str, Any]) -> Thunk:
    """``x`` becomes the sum of all ranks' ``x``, then as ``cpu.add_rms_norm``."""
    return in_order(all_reduce({"x": arguments["x"]}), add_rms_norm(arguments))


@register(
    "collective.all_gather",
    schema(
        tensor("x", "...x", *ANY_DTYPE),
        scratch("parts", "...parts", like="x"),
        written("out", "...out", like="x"),
        relations=("x.size <= out.size",),
    ),
)
def all_gather(arguments: dict[str, Any]) -> Thunk:
    """``out`` is the ``x`` of all ranks side by side, cut to its own size, along the one axis in
    which the shapes differ; ``parts`` [ranks, \\*x.shape] is work memory."""
    group = current_group()
    x, out, parts = arguments["x"], arguments["out"], arguments.get("parts")
    if parts is None:
        with torch.inference_mode(False):  # gloo's thread may write to no inference tensor
            parts = x.new_empty(group.size, *x.shape)
    axis, most = _axis(x, out), group.size
    if axis is None:
        return in_order(group.all_gather_of(x, parts), partial(out.copy_, parts[0]))
    if not x.shape[axis] < out.shape[axis] <= most * x.shape[axis]:
        raise _misfit("out", f"at most {most} times {list(x.shape)} along one axis", out)
    width, copies = x.shape[axis], []
    for rank in range(-(-out.shape[axis] // width)):
        room = out.narrow(axis, rank * width, min(width, out.shape[axis] - rank * width))
        copies.append(partial(room.copy_, parts[rank].narrow(axis, 0, room.shape[axis])))
    return in_order(group.all_gather_of(x, parts), *copies)


@register(
    "collective.reduce_scatter",
    schema(
        tensor("x", "...x"),
        written("out", "...out", like="x"),
        relations=("out.size <= x.size",),
    ),
)
def reduce_scatter(arguments: dict[str, Any]) -> Thunk:
    """``out`` is this rank's part of the sum of the ``x`` of all ranks, along the one axis in which
    the shapes differ and which the ranks divide."""
    group = current_group()
    x, out = arguments["x"], arguments["out"]
    axis = _axis(x, out)
    if axis is None and group.size == 1:
        return partial(out.copy_, x)
    if axis is None or group.size * out.shape[axis] != x.shape[axis]:
        raise _misfit("out", f"{list(x.shape)}, one axis divided by {group.size}", out)
    by_rank = x.unflatten(axis, (group.size, out.shape[axis])).movedim(axis, 0)
    if by_rank.is_contiguous():
        return group.reduce_scatter_of(by_rank, out)
    rows = torch.empty_like(by_rank, memory_format=torch.contiguous_format)
    return in_order(partial(rows.copy_, by_rank), group.reduce_scatter_of(rows, out))


def _axis(x: Tensor, out: Tensor) -> int | None:
    """The one axis in which the shapes differ; None where they don't."""
    pairs = list(zip(x.shape, out.shape, strict=False))
    axes = [axis for axis, (given, made) in enumerate(pairs) if given != made]
    if x.dim() != out.dim() or len(axes) > 1:
        raise _misfit("out", f"the shape of x, {list(x.shape)}, but for one axis", out)
    return axes[0] if axes else None


def _misfit(name: str, expected: str, tensor: Tensor) -> PlanError:
    return PlanError(
        f"'{name}' of a collective has the wrong shape",
        expected=expected,
        found=str(list(tensor.shape)),
    )
