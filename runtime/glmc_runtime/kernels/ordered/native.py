"""The functions of ``native/ordered.c`` over tensors: sums in an order that follows from their
length alone.

There is no other implementation of them: without a C compiler a plan that asks for them is refused.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from glmc_runtime.errors import GuardError, PlanError
from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.cpu.compiled import NoLibraryError, required
from glmc_runtime.kernels.cpu.status import failure

KINDS = {torch.float32: 0, torch.bfloat16: 1}
SEGMENTS = (1, 2, 4, 8)
_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "ordered_product": (*[_POINTER] * 4, *[_LONG] * 6, *[_POINTER] * 2, *[_INT] * 4),
    "ordered_norm": (*[_POINTER] * 3, *[_LONG] * 5, _FLOAT, _INT, _INT),
    "ordered_gated": (*[_POINTER] * 3, *[_LONG] * 3, _INT, _INT),
    "ordered_sigmoid": (_POINTER, _LONG),
    "ordered_combine": (*[_POINTER] * 3, *[_LONG] * 4, *[_INT] * 3),
    "ordered_attention": (*[_POINTER] * 7, *[_LONG] * 11, _FLOAT, _INT, _INT),
}


@cache
def _library() -> ctypes.CDLL:
    try:
        found = required("ordered")
    except NoLibraryError as error:
        raise GuardError(
            "the artifact was compiled with --deterministic, whose kernels can't be built here",
            expected="a C compiler: cc, gcc or clang, or the one that CC names",
            found=str(error),
            remedy="install one, or compile the model without --deterministic",
        ) from error
    for name, signature in _SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes, function.restype = signature, ctypes.c_int
    return found


def function(name: str) -> Callable[..., None]:
    """A function of the library; raises GuardError where there can't be one. What it returns
    raises MemoryError, and IndexError for an index beyond what it counts."""
    call = getattr(_library(), name)

    def run(*arguments: Any) -> None:
        status = call(*arguments)
        if status:
            raise failure(name, status)

    return run


def kind_of(name: str, tensor: torch.Tensor) -> int:
    """The number of a dtype; raises PlanError for one that no ordered kernel computes in."""
    kind = KINDS.get(tensor.dtype)
    if kind is None or tensor.device.type != "cpu":
        raise PlanError(
            f"no kernel with a fixed order of sums takes '{name}'",
            expected="float32 or bfloat16 on a CPU",
            found=f"{str(tensor.dtype).removeprefix('torch.')} on {tensor.device}",
            remedy="compile the model again, with one of these or without --deterministic",
        )
    return kind


def product(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
    segments: int = 1,
    length: int | None = None,
    apart: bool = False,
    added_to: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Thunk:
    """``out = x @ weight.T (+ bias)``: x [rows, k], weight [n, k], bias [n], out [rows, n] of their
    dtype or float32, all contiguous.

    k is cut into ``segments`` of ``length`` (None: all of k), of which the last may be short or
    empty. Each is a sum of its own; they are joined by the tree of neighbours and rounded once.
    With ``apart`` they are left as they are: out float32 [rows, segments, n]. ``added_to``, places
    int64 and scales float32 of each row, has them scaled and added to these rows of out instead, of
    which there may be more; no place may be there twice.
    """
    (rows, depth), size = x.shape, weight.shape[0]
    length = -(-depth // segments) if length is None else length
    kind, out_kind = kind_of("x", x), kind_of("out", out)
    places, scales = (None, None) if added_to is None else added_to
    expected = (rows if places is None else out.shape[0], segments, size) if apart else (rows, size)
    tensors = [tensor for tensor in (x, weight, out, bias) if tensor is not None]
    fits = (
        tuple(weight.shape) == (size, depth)
        and tuple(out.shape) == expected
        and (places is None or (apart and places.shape == (rows,) and places.dtype == torch.int64))
        and (scales is None or (scales.shape == (rows,) and scales.dtype == torch.float32))
        and (bias is None or (tuple(bias.shape) == (size,) and not apart))
        and segments in SEGMENTS
        and segments * length >= depth
        and length > 0
        and (out_kind == kind or out.dtype == torch.float32)
        and not (apart and out_kind)
        and all(tensor.is_contiguous() for tensor in tensors)
        and all(tensor.dtype == x.dtype for tensor in (weight, bias) if tensor is not None)
    )
    if not fits:
        raise PlanError(
            "a product's shapes do not fit",
            expected=f"contiguous, out {list(expected)}, segments that hold {depth} elements",
            found=f"x {list(x.shape)}, weight {list(weight.shape)}, out {list(out.shape)}, "
            f"{segments} segments of {length}",
        )
    run = function("ordered_product")
    sizes = (rows, size, depth, segments, length, out.shape[0])
    kinds = (kind, out_kind, int(apart))

    def thunk() -> None:
        run(
            x.data_ptr(),  # asked for each time: a storage may be given other memory
            weight.data_ptr(),
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            *sizes,
            None if places is None else places.data_ptr(),
            None if scales is None else scales.data_ptr(),
            *kinds,
            torch.get_num_threads(),
        )

    return thunk


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> Thunk:
    """``out = weight * cast(x / sqrt(mean(x^2) + eps))`` over the last dimension: x and out
    [rows, width], or [tokens, heads, width] whose tokens may be apart."""
    kind, run = kind_of("x", x), function("ordered_norm")
    width = x.shape[-1]
    heads = x.shape[1] if x.dim() == 3 else 1
    apart = [t.stride(-1) != 1 or (t.dim() == 3 and t.stride(1) != width) for t in (x, out)]
    if any(apart) or x.shape != out.shape or tuple(weight.shape) != (width,):
        raise PlanError(
            "a norm's shapes do not fit",
            expected="x and out alike, heads of a token one after the other, weight [width]",
            found=f"x {list(x.shape)}, out {list(out.shape)}, weight {list(weight.shape)}",
        )
    sizes = (x.shape[0] * heads, heads, width, x.stride(0), out.stride(0), eps, kind)

    def thunk() -> None:
        run(x.data_ptr(), weight.data_ptr(), out.data_ptr(), *sizes, torch.get_num_threads())

    return thunk


def gated(gate: torch.Tensor, up: torch.Tensor, out: torch.Tensor) -> Thunk:
    """``out = silu(gate) * up``, [rows, width] each; silu is rounded to the dtype first, as in
    eager code. Rows of gate and up may be apart, by the same stride."""
    kind, run = kind_of("gate", gate), function("ordered_gated")
    rows, width = out.shape
    fits = gate.shape == up.shape == out.shape and gate.stride() == up.stride()
    if not fits or gate.stride(1) != 1 or not out.is_contiguous():
        raise PlanError(
            "the shapes of gate and up do not fit",
            expected=f"{list(out.shape)}, both with the same strides",
            found=f"{list(gate.shape)} and {list(up.shape)}",
        )
    sizes = (rows, width, gate.stride(0), kind)

    def thunk() -> None:
        run(gate.data_ptr(), up.data_ptr(), out.data_ptr(), *sizes, torch.get_num_threads())

    return thunk


def sigmoid(x: torch.Tensor) -> Thunk:
    """In place, float32, contiguous."""
    run = function("ordered_sigmoid")
    if x.dtype != torch.float32 or not x.is_contiguous():
        raise PlanError("a sigmoid is of contiguous float32", found=str(x.dtype))

    def thunk() -> None:
        run(x.data_ptr(), x.numel())

    return thunk


def combine(x: torch.Tensor, weights: torch.Tensor | None, out: torch.Tensor) -> Thunk:
    """``out[t] = sum over slots, in order, of weights[t, s] * x[t, s]``: x [tokens, slots,
    segments, n], whose segments are joined last; weights float32 [tokens, slots], None for ones;
    out [tokens, n]."""
    kind, out_kind, run = kind_of("x", x), kind_of("out", out), function("ordered_combine")
    tokens, slots, segments, size = x.shape
    tensors = [tensor for tensor in (x, weights, out) if tensor is not None]
    fits = tuple(out.shape) == (tokens, size)
    fits = fits and (weights is None or tuple(weights.shape) == (tokens, slots))
    if not fits or segments not in SEGMENTS or not all(t.is_contiguous() for t in tensors):
        raise PlanError(
            "the shapes of a weighted sum do not fit",
            expected=f"weights [{tokens}, {slots}], out [{tokens}, {size}]",
            found=", ".join(str(list(tensor.shape)) for tensor in tensors),
        )
    sizes = (tokens, slots, segments, size, kind, out_kind)

    def thunk() -> None:
        scales = None if weights is None else weights.data_ptr()
        run(x.data_ptr(), scales, out.data_ptr(), *sizes, torch.get_num_threads())

    return thunk


def attention(
    query: torch.Tensor,
    caches: tuple[torch.Tensor, torch.Tensor],
    tables: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    out: torch.Tensor,
) -> Thunk:
    """Causal attention over caches [blocks, block_size, kv_heads, head_dim] of any strides but the
    last. query and out [tokens, q_heads, head_dim]; tables int32 [sequences, blocks]; the queries
    ``starts[s]:starts[s + 1]`` are the last of the ``lengths[s]`` tokens of a sequence. What has no
    place in query, tables or caches raises IndexError in the step."""
    kind, run = kind_of("query", query), function("ordered_attention")
    keys, values = caches
    (tokens, q_heads, head_dim), (blocks, block_size, kv_heads) = query.shape, keys.shape[:3]
    sizes = (
        *(tokens, *tables.shape, blocks, q_heads, kv_heads, head_dim, block_size),
        *keys.stride()[:3],
        scale,
        kind,
    )

    def thunk() -> None:
        run(
            query.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            out.data_ptr(),
            tables.data_ptr(),
            starts.data_ptr(),
            lengths.data_ptr(),
            *sizes,
            torch.get_num_threads(),
        )

    return thunk
