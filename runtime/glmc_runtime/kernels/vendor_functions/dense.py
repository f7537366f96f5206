"""Rows of the vendor's norms, activation, rotation and product."""

from __future__ import annotations

from glmc_runtime.kernels.schema import flag, integer, number, tensor, written
from glmc_runtime.kernels.vendor_functions.row import (
    Arguments,
    VendorFunction,
    keywords,
    optional,
    unused,
)

SWIGLU_ROW_BYTES = 16
_OPS = "vllm-kunlun: vllm_kunlun/ops/_custom_ops.py"
_NORMS = "vllm-kunlun: vllm_kunlun/ops/layernorm.py"


def _adds_to_out(given: Arguments) -> bool:
    return bool(given.get("beta"))


DENSE = (
    VendorFunction(
        "rmsnorm",
        keywords(
            tensor("x", "rows width"),
            tensor("weight", "width", like="x"),
            written("output", "rows width", like="x"),
            optional(number("eps", 0, 1), 1e-5),
            *unused(
                interweave=False,
                store_output_before_norm=True,
                bias=None,
                residual_output=None,
                output_max=None,
            ),
        ),
        hostile=("x", "weight"),
        limits=("x of two dimensions", "weight of the dtype of x"),
        source=(_OPS, _NORMS),
    ),
    VendorFunction(
        "add_rmsnorm",
        keywords(
            tensor("x", "rows width"),
            tensor("y", "rows width", like="x"),
            tensor("weight", "width", like="x"),
            written("output", "rows width", like="x"),
            optional(number("eps", 0, 1), 1e-5),
            *unused(interweaved=False, store_output_before_norm=True, bias=None, smooth=None),
            optional(written("residual_output", "rows width", like="x"), None),
            *unused(output_max=None),
        ),
        aliases=(("output", "x"), ("residual_output", "y")),
        hostile=("x", "y", "weight"),
        limits=("x of two dimensions", "weight of the dtype of x"),
        source=(_OPS, _NORMS),
    ),
    VendorFunction(
        "swiglu",
        keywords(tensor("x", "... 2*width"), written("y", "... width", like="x")),
        hostile=("x",),
        limits=(f"bytes of a row of y are a multiple of {SWIGLU_ROW_BYTES}",),
        source=(_OPS,),
    ),
    VendorFunction(
        "rotary_embedding",
        keywords(
            tensor("positions", "tokens", "int64", holds="positions", below="places"),
            written("query", "tokens query_width", reads=True),
            written("key", "tokens key_width", like="query", reads=True),
            integer("head_size", 1),
            tensor("cos_sin_cache", "places rotary", like="query"),
            flag("is_neox"),
        ),
        relations=(
            "query_width % head_size == 0",
            "key_width % head_size == 0",
            "rotary <= head_size",
            "rotary % 2 == 0",
        ),
        hostile=("query", "key"),
        limits=("rotary dimension even and at most the head size", "table of the dtype of query"),
        source=("vllm-kunlun: vllm_kunlun/ops/rotary_embedding/kunlun_rope.py",),
    ),
    VendorFunction(
        "matmul",
        keywords(
            tensor("x", "rows k"),
            tensor("w", "n k", like="x"),
            written("out", "rows n", like="x"),
            *unused(x_trans=False),
            optional(flag("w_trans", only=True), True),
            *unused(alpha=1, beta=0),
            optional(tensor("bias", "n", "float32", required=False), None),
            *unused(x_max=None, w_max=None, x_pc_max=None, w_pc_max=None),
        ),
        partly_written=_adds_to_out,
        hostile=("x",),
        limits=("bias float32", "float16 with one row and 248320 columns is wrong (issue 387)"),
        source=(_OPS, "vllm-kunlun 0.25.1 (unquantised linear)", "vllm-kunlun issue 387"),
    ),
)
