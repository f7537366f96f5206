"""Limits of the Kunlun target that are checked at compile time, each with its reason.

The vendor's kernels answer a broken limit with an unreadable check, or with garbage and no error,
so nothing is left for run time that can be known before.
"""

from __future__ import annotations

import math

import torch

from glmc.backends.kunlun.abi import abi_profile
from glmc.errors import InternalError, LoweringError
from glmc.ir.program import ModelShape
from glmc.lowering.target import LoweringOptions
from glmc_runtime.kernels.vendor_functions.attention import BLOCK_SIZES, HEAD_SIZES
from glmc_runtime.kernels.vendor_functions.dense import SWIGLU_ROW_BYTES
from glmc_runtime.kernels.vendor_functions.experts import MOST_EXPERTS

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAXIMUM_DECODE_BATCH = 512
FLOAT16_COLUMNS = 65536
"""Columns of one float16 product. A product with one row and 248320 columns is known to be wrong
and cutting it along the columns to be right (vllm-kunlun issue 387); where the error begins is
not known. This bound is our caution, no measurement."""
ABSORBED_EPS = 1e-20
"""The router kernel divides by the plain sum. An eps of 1e-20 is lost in a float32 sum above 1e-12,
that is unless every chosen logit is below -27."""


def check(options: LoweringOptions, model: object) -> None:
    """Refuse options and models that the vendor's kernels can't serve.

    Raises LoweringError for a limit, AbiError for an unknown profile.
    """
    abi_profile(options.abi_profile)
    if not isinstance(model, ModelShape):
        raise InternalError("the target's check needs a ModelShape", found=type(model).__name__)
    check_dtype(options.dtype, "the model's dtype")
    check_head(model.head_dim, model.query_heads, model.kv_heads, model.name)
    if options.block_size not in BLOCK_SIZES:
        raise LoweringError(
            "no public caller uses a KV block of this size",
            expected=f"block size {_one_of(BLOCK_SIZES)}",
            found=str(options.block_size),
            remedy="128 is what the vendor's recipes use",
        )
    if options.max_sequences > MAXIMUM_DECODE_BATCH:
        raise LoweringError(
            "the decode attention fails for large batches (1024 is known to fail)",
            expected=f"at most {MAXIMUM_DECODE_BATCH} sequences in a step",
            found=str(options.max_sequences),
            remedy=f"lower the largest decode bucket to {MAXIMUM_DECODE_BATCH}",
        )


def check_dtype(dtype: torch.dtype, place: str) -> None:
    if dtype not in DTYPES:
        raise LoweringError(
            "the Kunlun platform does not compute in this dtype",
            place=place,
            expected=_one_of(DTYPES),
            found=str(dtype),
            remedy="compile with --dtype float16 or bfloat16",
        )


def check_head(head_dim: int, query_heads: int, kv_heads: int, place: str) -> None:
    if head_dim not in HEAD_SIZES:
        raise LoweringError(
            "the KV cache kernels do not know this head size",
            place=place,
            expected=_one_of(HEAD_SIZES),
            found=str(head_dim),
            remedy="this model can't run on the xpu target",
        )
    if query_heads % kv_heads:
        raise LoweringError(
            "query heads must be a multiple of the KV heads",
            place=place,
            expected=f"a multiple of {kv_heads}",
            found=str(query_heads),
        )


def check_swiglu(width: int, dtype: torch.dtype, place: str) -> None:
    """``width`` is the last dimension of the result; both it and the input are then aligned."""
    row = width * dtype.itemsize
    if row % SWIGLU_ROW_BYTES:
        raise LoweringError(
            "the vendor's swiglu needs aligned rows",
            place=place,
            expected=f"a row of a multiple of {SWIGLU_ROW_BYTES} bytes",
            found=f"{width} x {dtype} = {row} bytes",
            remedy="a smaller --tensor-parallel, or another intermediate size",
        )


def check_rotary(rotary_dim: int, head_dim: int, place: str) -> None:
    if rotary_dim % 2 or not 0 < rotary_dim <= head_dim:
        raise LoweringError(
            "the vendor's rotary kernel can't turn this many entries",
            place=place,
            expected=f"an even number up to the head size {head_dim}",
            found=str(rotary_dim),
        )


def check_experts(experts: int, place: str) -> None:
    if experts > MOST_EXPERTS:
        raise LoweringError(
            "the vendor's router writes garbage, without an error, above 512 experts",
            place=place,
            expected=f"at most {MOST_EXPERTS} experts",
            found=str(experts),
            remedy="this model can't run on the xpu target",
        )


def check_default_scale(scale: float, head_dim: int, function: str, place: str) -> None:
    """For kernels without a scale argument, which use ``head_dim ** -0.5``."""
    if not math.isclose(scale, head_dim**-0.5, rel_tol=1e-6):
        raise LoweringError(
            f"{function} takes no scale in this ABI profile",
            place=place,
            expected=f"head_dim ** -0.5 = {head_dim**-0.5:.8g}",
            found=f"{scale:.8g}",
            remedy="compile for profile P-A or P-C",
        )


def check_index_dtype(dtype: torch.dtype, expected: torch.dtype, name: str, place: str) -> None:
    if dtype != expected:
        raise LoweringError(
            f"the vendor reads '{name}' in one dtype only",
            place=place,
            expected=str(expected),
            found=str(dtype),
        )


def _one_of(values: tuple[object, ...]) -> str:
    return "one of " + ", ".join(str(value).removeprefix("torch.") for value in values)
