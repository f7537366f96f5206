"""Causal attention of packed sequences over the paged cache, prefixes in the cache or none.

Three kernel variants. "flash": contexts are gathered one after the other, and torch's flash
attention takes all sequences in one call; its causal mask is aligned at the bottom right, as
prefixes need. "cudnn": cuDNN's attention, for one sequence without a prefix; it plans anew for each
length, so keys and values are padded to the rows of the query, a bucket. "triton": a kernel of ours
over the paged cache itself, for float32 and wherever the libraries are missing. In the place of
"flash" comes a library that reads the paged cache itself, where one is offered: all sequences of a
step in one call.

Otherwise, of a step that has both, sequences with one new token go to the kernel of a decode step,
the others to one of these. Not captured in a graph: the bounds are read on the host when the call
runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import (
    power_of_two,
    require_dtype,
    require_like,
    require_one_device,
    require_shape,
)
from glmc_runtime.kernels.cuda import tuned
from glmc_runtime.kernels.cuda.attention.decode import single_rows
from glmc_runtime.kernels.cuda.attention.gather import GATHERED_ROWS, gather_kernel
from glmc_runtime.kernels.cuda.attention.online_softmax import LOG2_E, attend
from glmc_runtime.kernels.cuda.attention.packed_bounds import (
    PackedStep,
    WholeStep,
    packed_step,
)
from glmc_runtime.kernels.cuda.attention.paged_library import (
    PagedAttention,
    offered_paged_attention,
)
from glmc_runtime.kernels.cuda.attention.schema import PREFILL
from glmc_runtime.kernels.cuda.launch import RepeatedLaunch, interpreted, pdl_enabled
from glmc_runtime.kernels.cuda.paged_cache import cache_constants
from glmc_runtime.kernels.cuda.tuned import Configuration
from glmc_runtime.kernels.owner import owner

VARIANTS = ("flash", "cudnn", "triton")


@triton.jit(do_not_specialize=["table_stride"])
def prefill_attention_kernel(
    query,
    key_cache,
    value_cache,
    tables,
    rows,
    cu_seqlens_q,
    cu_seqlens_k,
    out,
    table_stride,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    HEAD_STRIDE: tl.constexpr,
    TOKEN_STRIDE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDEN: tl.constexpr,
    PDL: tl.constexpr,
):
    """ROWS queries of one head of one sequence; the last, which see most, come first. Queries
    without a context give zero."""
    head, sequence = tl.program_id(0), tl.program_id(1)
    tile = tl.num_programs(2) - 1 - tl.program_id(2)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    first = tl.load(cu_seqlens_q + sequence)
    queries = tl.load(cu_seqlens_q + sequence + 1) - first
    length = tl.load(cu_seqlens_k + sequence + 1) - tl.load(cu_seqlens_k + sequence)
    if tile * ROWS >= queries:
        return
    row = (tile * ROWS + tl.arange(0, ROWS))[:, None]
    columns = tl.arange(0, WIDTH)[None, :]
    inside = (row < queries) & (columns < HEAD_DIM)
    places = ((first + row).to(tl.int64) * (KV_HEADS * GROUP) + head) * HEAD_DIM + columns
    heads = tl.load(query + places, mask=inside, other=0.0)
    if length == 0:
        tl.store(out + places, tl.zeros([ROWS, WIDTH], dtype=out.dtype.element_ty), mask=inside)
        return
    prefix = length - queries
    total, _, weight = attend(
        heads,
        key_cache,
        value_cache,
        tables + tl.load(rows + sequence).to(tl.int64) * table_stride,
        head // GROUP,
        0,
        tl.minimum(prefix + (tile + 1) * ROWS, length),
        prefix + row,
        scale,
        tl.zeros([ROWS, WIDTH], dtype=tl.float32),
        tl.full([ROWS], float("-inf"), dtype=tl.float32),
        tl.zeros([ROWS], dtype=tl.float32),
        BLOCK_SIZE,
        BLOCK_STRIDE,
        HEAD_STRIDE,
        TOKEN_STRIDE,
        HEAD_DIM,
        WIDTH,
        BLOCK,
        WIDEN,
    )
    result = (total / weight[:, None]).to(out.dtype.element_ty)
    tl.store(out + places, result, mask=inside)


class _Call(NamedTuple):
    """The tensors of a call, and what does not change from step to step."""

    query: torch.Tensor
    key_cache: torch.Tensor
    value_cache: torch.Tensor
    tables: torch.Tensor
    cu_seqlens_q: torch.Tensor
    scale: float
    out: torch.Tensor
    rows: int
    gather: RepeatedLaunch
    attend: RepeatedLaunch

    @classmethod
    def of(cls, arguments: dict[str, Any], configuration: Configuration) -> _Call:
        query, key_cache = arguments["query"], arguments["key_cache"]
        q_heads, head_dim = query.shape[1:]
        kv_heads, pdl = key_cache.shape[1], pdl_enabled(query.device)
        constants = {
            "KV_HEADS": kv_heads,
            **cache_constants(arguments, head_dim, query.dtype),
            "HEAD_DIM": head_dim,
            "WIDTH": max(16, power_of_two(head_dim)),
        }
        blocks = configuration if "ROWS" in configuration else default(query.dtype, head_dim)
        attend = RepeatedLaunch(
            prefill_attention_kernel,
            **constants,
            GROUP=q_heads // kv_heads,
            **{name: value for name, value in blocks.items() if name != "variant"},
            WIDEN=interpreted(),
            enable_fp_fusion=query.dtype != torch.float32,
            pdl=pdl,
        )
        gather = RepeatedLaunch(
            gather_kernel, **constants, ROWS=GATHERED_ROWS, num_warps=4, pdl=pdl
        )
        return cls(
            query,
            key_cache,
            arguments["value_cache"],
            arguments["block_tables"],
            arguments["cu_seqlens_q"],
            float(arguments["scale"]),
            arguments["out"],
            blocks["ROWS"],
            gather,
            attend,
        )


def library_variant(query: torch.Tensor) -> str:
    """The variant of the device and dtype: "cudnn" (flash too), "flash", or only "triton"."""
    narrow = query.dtype in (torch.bfloat16, torch.float16)
    if query.device.type != "cuda" or not narrow or query.shape[-1] % 8 or query.shape[-1] > 256:
        return "triton"
    capability = torch.cuda.get_device_capability(query.device)
    if capability < (8, 0) or not torch.backends.cuda.is_flash_attention_available():
        return "triton"
    with_cudnn = capability >= (9, 0) and torch.backends.cudnn.is_available()
    return "cudnn" if with_cudnn and query.shape[-1] <= 128 else "flash"


def choose_variant(wanted: str, step: PackedStep) -> str:
    """``wanted``, but "flash" for what cuDNN is not used for: several sequences, or a prefix."""
    return "flash" if wanted == "cudnn" and not step.alone else wanted


def lacks_kernel(error: RuntimeError) -> bool:
    """Whether cuDNN says that it has no kernel for a call, which it does only when it is called."""
    said = str(error).lower()
    failed = isinstance(error, torch.cuda.OutOfMemoryError) or "execution_failed" in said
    return "cudnn" in said and not failed


def default(dtype: torch.dtype, head_dim: int) -> Configuration:
    """Blocks of our own kernel, for the tensor cores of Hopper; float32 has none."""
    if dtype == torch.float32 or head_dim > 128:
        return {"ROWS": 32, "BLOCK": 32, "num_warps": 8, "num_stages": 2}
    return {"ROWS": 128, "BLOCK": 64, "num_warps": 8, "num_stages": 3}


def candidates(dtype: torch.dtype, head_dim: int) -> Iterator[Configuration]:
    """What to try, the default first, then the libraries."""
    yield default(dtype, head_dim)
    if dtype != torch.float32:
        yield {"variant": "flash"}
        yield {"variant": "cudnn"}
        for rows, block, warps, stages in ((128, 128, 8, 2), (64, 64, 4, 3), (128, 64, 8, 2)):
            sizes = {"ROWS": rows, "BLOCK": block, "num_warps": warps, "num_stages": stages}
            yield {"variant": "triton", **sizes}


def _gather(call: _Call, step: PackedStep, least: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [tokens, kv_heads, head_dim] of the contexts of a step, one after the other;
    with ``least`` of the first alone, at least so many rows."""
    kv_heads, _, head_dim = call.key_cache.shape[1:]
    size = max(step.bounds.contexts[-1], least)
    keys, values = (call.query.new_empty(size, kv_heads, head_dim) for _ in range(2))
    sequences = 1 if least else step.bounds.sequences
    call.gather(
        (kv_heads, sequences, triton.cdiv(max(step.longest[1], least), GATHERED_ROWS)),
        call.key_cache,
        call.value_cache,
        call.tables,
        step.rows,
        step.cu_seqlens_k,
        keys,
        values,
        call.tables.shape[1],
        least,
    )
    return keys, values


def _flash(call: _Call, step: PackedStep) -> None:
    rows = step.bounds.queries[-1]
    operands = (call.query[:rows], *_gather(call, step), step.cu_seqlens_q, step.cu_seqlens_k)
    sizes = (*step.longest, 0.0, True, False)
    in_place = getattr(torch.ops.aten, "_flash_attention_forward_no_dropout_inplace", None)
    if in_place is not None:
        in_place(call.out[:rows], *operands, *sizes, scale=call.scale)
    else:
        result = torch.ops.aten._flash_attention_forward(*operands, *sizes, scale=call.scale)
        call.out[:rows].copy_(result[0])


def _cudnn(call: _Call, step: PackedStep) -> None:
    """All rows of the query, so that every length of a bucket has one plan; causal, so that the
    rows in front do not see the zeros after them."""
    keys, values = _gather(call, step, call.query.shape[0])
    operands = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (call.query, keys, values))
    result = torch.ops.aten._scaled_dot_product_cudnn_attention(
        *operands, None, False, 0.0, True, False, scale=call.scale
    )
    call.out.copy_(result[0][0].transpose(0, 1))
    call.out[step.tokens :].zero_()


def _in_place(attention: PagedAttention, call: _Call, step: PackedStep, whole: WholeStep) -> None:
    """Of all sequences, single ones too."""
    attention(
        call.query[: step.tokens],
        call.key_cache.transpose(1, 2),
        call.value_cache.transpose(1, 2),
        call.out[: step.tokens],
        cu_seqlens_q=call.cu_seqlens_q[: whole.sequences + 1],
        lengths=whole.lengths,
        block_tables=call.tables[: whole.sequences],
        longest_query=whole.longest[0],
        longest_context=whole.longest[1],
        scale=call.scale,
    )
    if step.tokens < len(call.out):
        call.out[step.tokens :].zero_()


def _triton(call: _Call, step: PackedStep) -> None:
    call.attend(
        (call.query.shape[1], step.bounds.sequences, triton.cdiv(step.longest[0], call.rows)),
        call.query,
        call.key_cache,
        call.value_cache,
        call.tables,
        step.rows,
        step.cu_seqlens_q,
        step.cu_seqlens_k,
        call.out,
        call.tables.shape[1],
        call.scale * LOG2_E,
    )


def _check(arguments: dict[str, Any]) -> None:
    query, tables = arguments["query"], arguments["block_tables"]
    tokens, q_heads, head_dim = query.shape
    require_dtype("query", query)
    require_shape("query", query, (tokens, q_heads, head_dim))
    require_like("out", arguments["out"], query)
    require_dtype("block_tables", tables, torch.int32)
    require_shape("block_tables", tables, tuple(tables.shape))
    for name in ("cu_seqlens_q", "cu_seqlens_k", "cu_seqlens_q_host", "cu_seqlens_k_host"):
        require_dtype(name, arguments[name], torch.int32)
        require_shape(name, arguments[name], (tables.shape[0] + 1,))
    for name in ("cu_seqlens_q_host", "cu_seqlens_k_host"):
        if arguments[name].device.type != "cpu":
            raise PlanError(f"'{name}' is read on the host", found=str(arguments[name].device))
    device_names = (
        "out",
        "key_cache",
        "value_cache",
        "block_tables",
        "cu_seqlens_q",
        "cu_seqlens_k",
    )
    require_one_device(query, *(arguments[name] for name in device_names))


@register("cuda.prefill_attention", PREFILL)
def prefill_attention(arguments: dict[str, Any]) -> Thunk:
    """query and out [tokens, q_heads, head_dim]; caches as for ``cuda.decode_attention``;
    block_tables int32 [sequences, blocks_per_sequence]; cu_seqlens_q and cu_seqlens_k int32
    [sequences + 1] on the device, and again on the host, where the call reads them each time it
    runs. Rows beyond cu_seqlens_q[-1] come out as zero. A ``configuration`` may name the
    variant."""
    _check(arguments)
    query, out, key_cache = arguments["query"], arguments["out"], arguments["key_cache"]
    cu_seqlens_q, cu_seqlens_k = arguments["cu_seqlens_q_host"], arguments["cu_seqlens_k_host"]
    tokens, q_heads, head_dim = query.shape
    key = f"{q_heads}x{key_cache.shape[1]}x{head_dim}"
    configuration: Configuration = (
        arguments.get("configuration")
        or tuned.configuration("prefill_attention", query.dtype, key, tokens)
        or {"variant": library_variant(query), **default(query.dtype, head_dim)}
    )
    wanted = configuration.get("variant", "triton")
    if wanted not in VARIANTS:
        raise PlanError(
            "no such variant of attention", expected=", ".join(VARIANTS), found=str(wanted)
        )
    call = _Call.of(arguments, configuration)
    variants = {"flash": _flash, "cudnn": _cudnn, "triton": _triton}
    whose = owner()
    is_asked_for = arguments.get("configuration") is not None
    paged = None if is_asked_for or wanted == "triton" else offered_paged_attention()
    attend_singles = single_rows(arguments) if paged is None else None

    def run() -> None:
        nonlocal attend_singles
        step = packed_step(cu_seqlens_q, cu_seqlens_k, tokens, out.device, whose)
        by_cudnn = wanted == "cudnn" and step.alone
        if paged is not None and step.in_place is not None and step.tokens and not by_cudnn:
            _in_place(paged, call, step, step.in_place)
            return
        if step.others:
            attend_others(step)
        elif step.tokens < tokens:
            out[step.tokens :].zero_()
        if step.singles:
            attend_singles = attend_singles or single_rows(arguments)
            attend_singles()

    def attend_others(step: PackedStep) -> None:
        nonlocal wanted
        variant = choose_variant(wanted, step)
        try:
            variants[variant](call, step)
        except RuntimeError as error:
            if variant != "cudnn" or is_asked_for or not lacks_kernel(error):
                raise
            message = f"{error}, so flash attention runs in its place"
            warnings.warn(message.replace("\n", " "), stacklevel=2)
            wanted = "flash"
            _flash(call, step)

    return run
