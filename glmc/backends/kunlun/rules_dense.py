"""Embedding, linear, norms, activations and the shared expert as Kunlun calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from glmc.backends.kunlun import limits
from glmc.backends.kunlun.emit import Passed, cast_weight, vendor
from glmc.errors import LoweringError
from glmc.lowering.direct import Direct
from glmc.lowering.ordered_sums import whole_product
from glmc.lowering.target import Emitter, Op, Rule, Value, fixed
from glmc.lowering.values import as_rows, view
from glmc_runtime.format.plan import WeightArgument

MATMUL_PROFILE = "P-C"


def linear(op: Op, emit: Emitter) -> None:
    """A float16 product with many columns is cut along them and put together again."""
    x, weight, bias = op.tensor("x"), op.tensor("weight"), op.optional_tensor("bias")
    out = emit.result()
    columns = weight.dim(0)
    if x.dtype != torch.float16 or columns <= limits.FLOAT16_COLUMNS:
        matmul(emit, as_rows(x), weight, bias, as_rows(out))
        return
    starts = range(0, columns, limits.FLOAT16_COLUMNS)
    parts: dict[str, Value] = {}
    for number, start in enumerate(starts):
        stop = min(start + limits.FLOAT16_COLUMNS, columns)
        part = emit.temporary(
            f"columns_{number}", (as_rows(x).shape[0], fixed(stop - start)), out.dtype
        )
        part_bias = None if bias is None else weight_rows(bias, start, stop, op.node)
        matmul(emit, as_rows(x), weight_rows(weight, start, stop, op.node), part_bias, part)
        parts[f"part_{number}"] = part
    emit.call("aten.concat_columns", writes=("out",), host=False, **parts, out=as_rows(out))
    emit.remark(
        f"float16 product of {columns} columns cut in {len(starts)}: one with 248320 columns is "
        "known to be wrong on the hardware"
    )


def matmul(emit: Emitter, x: Value, weight: Value, bias: Value | None, out: Value) -> None:
    """``out = x @ weight.T + bias``, all of two dimensions.

    P-A and P-B leave unquantised linears to torch, as the vendor's own engines do; the engine of
    P-C sends them to ``kunlun_ops.matmul``, whose bias is documented as float32 only.
    """
    if emit.options.abi_profile != MATMUL_PROFILE:
        torch_product(emit, x, weight, bias, out)
        return
    given: dict[str, Passed] = {}
    if bias is not None:
        given["bias"] = cast_weight(emit, bias, torch.float32)
    vendor(emit, "matmul", x=x, w=weight, out=out, w_trans=True, **given)


def torch_product(emit: Emitter, x: Value, weight: Value, bias: Value | None, out: Value) -> None:
    """A product that is left to torch; with ``--deterministic`` to a kernel that is on the host
    alone, where the emulator runs."""
    if emit.options.deterministic:
        whole_product(emit, x, weight, bias, out)
        return
    emit.call("aten.linear", writes=("out",), x=x, weight=weight, bias=bias, out=out)


def weight_rows(value: Value, start: int, stop: int, place: str) -> Value:
    """Rows ``start:stop`` of a weight, which are together in memory."""
    argument = value.argument
    if not isinstance(argument, WeightArgument):
        raise LoweringError(
            "only a packed weight can be cut in rows", place=place, found=repr(argument)
        )
    base = 0 if argument.rows is None else argument.rows[0]
    return replace(
        value,
        shape=(fixed(stop - start), *value.shape[1:]),
        argument=replace(argument, rows=(base + start, base + stop)),
    )


def rms_norm(op: Op, emit: Emitter) -> None:
    norm(emit, op.tensor("x"), op.tensor("weight"), emit.result(), op.number("eps"))


def norm(emit: Emitter, x: Value, weight: Value, out: Value, eps: float) -> None:
    """Norm of each row of x in its last dimension."""
    vendor(emit, "rmsnorm", x=as_rows(x), weight=weight, output=as_rows(out), eps=eps)


def add_rms_norm(op: Op, emit: Emitter) -> None:
    """In place, as every public caller does: the norm lands in x, the sum in the residual."""
    branch = emit.mutable(op.tensor("x"))
    total = emit.mutable(op.tensor("residual"))
    vendor(
        emit,
        "add_rmsnorm",
        x=as_rows(branch),
        y=as_rows(total),
        weight=op.tensor("weight"),
        output=as_rows(branch),
        eps=op.number("eps"),
        residual_output=as_rows(total),
    )
    emit.bind(0, branch)
    emit.bind(1, total)


def swiglu(op: Op, emit: Emitter) -> None:
    gate_times_up(emit, op.tensor("x"), emit.result(), op.node)


def gate_times_up(emit: Emitter, x: Value, out: Value, place: str) -> None:
    """x [.., 2 * width] -> out [.., width]."""
    limits.check_swiglu(out.dim(-1), out.dtype, place)
    vendor(emit, "swiglu", x=x, y=out)


def silu_mul(op: Op, emit: Emitter) -> None:
    """The halves are put side by side first: the vendor's kernel takes one tensor."""
    gate, up, out = as_rows(op.tensor("gate")), as_rows(op.tensor("up")), as_rows(emit.result())
    both = emit.temporary("gate_up", (gate.shape[0], gate.shape[1] * 2), gate.dtype)
    emit.call("aten.concat_columns", writes=("out",), part_0=gate, part_1=up, out=both)
    emit.remark("gate and up are separate: one copy more than a merged projection")
    gate_times_up(emit, both, out, op.node)


def shared_expert(op: Op, emit: Emitter) -> None:
    x, gate_up, down = as_rows(op.tensor("x")), op.tensor("gate_up"), op.tensor("down")
    out = emit.result()
    width = gate_up.dim(0) // 2
    both = emit.temporary("gate_up", (x.shape[0], fixed(2 * width)), x.dtype)
    activated = emit.temporary("activated", (x.shape[0], fixed(width)), x.dtype)
    shared = emit.temporary("shared", as_rows(out).shape, out.dtype)
    matmul(emit, x, gate_up, None, both)
    gate_times_up(emit, both, activated, op.node)
    matmul(emit, activated, down, None, shared)
    emit.call(
        "aten.add",
        writes=("out",),
        x=op.tensor("routed"),
        y=view(shared, *out.shape),
        out=out,
    )


RULES: Mapping[str, Rule] = {
    "embedding": Direct("aten.embedding", names={"token_ids": "ids"}),
    "select_rows": Direct("aten.index_select"),
    "linear": linear,
    "rms_norm": rms_norm,
    "add_rms_norm": add_rms_norm,
    "swiglu": swiglu,
    "silu_mul": silu_mul,
    "shared_expert": shared_expert,
}
