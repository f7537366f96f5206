"""Products with a weight that is read once per step: oneDNN's blocked layout, no allocation.

``x @ weight.T`` for few rows is bound by reading the weight. ATen's ``mm`` hands oneDNN (bfloat16)
or MKL (float32) the plain row-major weight, which is repacked or badly streamed on every call; a
weight packed once at load runs at 1.4 to 1.8 times the speed (float32, 4 to 16 rows: 2.5 to 4).
Only one row of float32 is best left to ``mm``, which then reads at the memory's speed.
``mkldnn::_linear_pointwise`` has no ``out``; a 1x1 convolution over an image of one row of ``rows``
pixels is the same product, and its ``add`` variant accumulates into a given tensor.
``bench/cpu/cpu_gemv.py`` measures all of these.

Where the processor has AMX tiles, bfloat16 stays with ``mm``: oneDNN's plain product uses the tiles
and the packed one lost. ``bench/cpu/decode.py`` on two threads of such a Xeon, a dense model of 1.2
B parameters, milliseconds per step of eager Hugging Face and of packed weights: 211 and 257 at
batch 1, 220 and 284 at 4, 240 and 335 at 16, that is 0.82 to 0.72 of eager's speed. The choice
follows from the processor alone, so that the same machine always computes the same bits; without
products of bfloat16 it follows from the compiler at hand as well, see ``narrow.py``.

Beyond ``PACKED_ROWS`` rows the product is bound by arithmetic and the convolution loses to
``mm``; so it does for weights below ``PACKED_ELEMENTS``, which stay in a processor's cache.

For a few shapes oneDNN has no fast convolution and takes its reference without a word (such as 320
outputs of 1408 inputs, 8 rows, bfloat16 with AVX-512), two hundred times slower than ``mm``.
Only trying tells which shapes these are.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from time import perf_counter
from weakref import WeakValueDictionary

import torch

from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.cpu.wide_attention import multiplies

PACKED_ROWS = 16
PACKED_ELEMENTS = 1 << 18
_REFERENCE_SLOWER = 5  # a reference kernel is 30 to 200 times slower than mm
_PROCESSOR = Path("/proc/cpuinfo")


class PackedWeight:
    """A weight [n, k] and its blocked copy. The original stays: products of many rows read it,
    and when it is a mapped file its pages cost nothing while unread."""

    def __init__(self, weight: torch.Tensor) -> None:
        size, depth = weight.shape
        self.weight = weight
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight.reshape(size, depth, 1, 1), [0, 0], [1, 1], [1, 1], 1, [1, depth, 4, 1]
        )


Contents = tuple[int, torch.Size, torch.dtype, int]
_PACKED: WeakValueDictionary[Contents, PackedWeight] = WeakValueDictionary()


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN has blocked products of this dtype on this processor."""
    packable = dtype in (torch.bfloat16, torch.float32)
    return packable and torch.backends.mkldnn.is_available() and multiplies(dtype)


@cache
def has_amx_tiles() -> bool:
    """Whether this processor has AMX tiles: torch's answer, or the kernel's list of flags where
    torch is too old to say. No such list, as outside Linux, means none."""
    ask = getattr(torch.cpu, "_is_amx_tile_supported", None)
    if ask is not None:
        return bool(ask())
    return _PROCESSOR.is_file() and "amx_tile" in _PROCESSOR.read_text().split()


def prefers_packed(rows: int, weight: torch.Tensor) -> bool:
    """Whether the packed product with a weight [n, k] is the faster one for this many rows."""
    dtype = weight.dtype
    if weight.numel() < PACKED_ELEMENTS:
        return False
    if dtype == torch.float32 and rows == 1:
        return False
    if dtype == torch.bfloat16 and has_amx_tiles():
        return False
    if rows > PACKED_ROWS or not can_pack(dtype):
        return False
    return has_fast_product(rows, *weight.shape, dtype)


@cache
def has_fast_product(rows: int, size: int, depth: int, dtype: torch.dtype) -> bool:
    """Whether oneDNN has more than its reference for ``rows`` rows and a weight [size, depth]; the
    best of three runs beside the best of three of ``mm``."""
    weight = torch.zeros(size, depth, dtype=dtype)
    x, out = torch.zeros(rows, depth, dtype=dtype), torch.zeros(rows, size, dtype=dtype)
    packed = _best(accumulate(as_image(x), PackedWeight(weight), as_image(out)))
    return packed < _REFERENCE_SLOWER * _best(partial(torch.mm, x, weight.t(), out=out))


def _best(thunk: Thunk) -> float:
    """Seconds of the fastest of three runs, after one that compiles."""
    thunk()
    times = []
    for _ in range(3):
        started = perf_counter()
        thunk()
        times.append(perf_counter() - started)
    return min(times)


def pack(weight: torch.Tensor) -> PackedWeight:
    """The packed form of a weight, made once however many phases and buckets use it."""
    key = contents(weight)
    packed = _PACKED.get(key)
    if packed is None:
        packed = _PACKED[key] = PackedWeight(weight)
    return packed


def contents(weight: torch.Tensor) -> Contents:
    """A key for what is made of a weight while the weight is kept: where it is, as what, and how
    often that memory was written, which torch does not count in inference mode."""
    written = 0 if weight.is_inference() else weight._version
    return weight.data_ptr(), weight.shape, weight.dtype, written


def as_image(rows: torch.Tensor) -> torch.Tensor:
    """[rows, width] as an image [1, width, rows, 1] in channels-last order; a view."""
    return rows.view(1, rows.shape[0], 1, rows.shape[1]).permute(0, 3, 1, 2)


def accumulate(x: torch.Tensor, weight: PackedWeight, out: torch.Tensor) -> Thunk:
    """``out += x @ weight.T`` for images x [1, k, rows, 1] and out [1, n, rows, 1]; the sum is
    rounded once."""
    thunk = partial(
        torch.ops.mkldnn._convolution_pointwise_.binary,
        out,
        x,
        weight.packed,
        None,
        [0, 0],
        [1, 1],
        [1, 1],
        1,
        "add",
        1.0,
        None,
        [],
        None,
    )
    # The thunk owns the packed weight, so that the next bucket finds it and none is packed twice.
    thunk.__dict__["weight"] = weight
    return thunk
