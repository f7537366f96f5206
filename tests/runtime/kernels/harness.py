"""Bind a CPU kernel, run it twice, and see that nothing is allocated the second time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cpu import decode_library
from glmc_runtime.kernels.cpu.compiled import NoLibraryError, required
from glmc_runtime.kernels.cpu.decode_library import KINDS
from tests.runtime.counting import FreshStorage

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 1e-2}


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def nan(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Memory of the arena at its worst."""
    return torch.full(shape, torch.nan, dtype=dtype)


IN_C = frozenset(
    (
        "rms_norm",
        "add_rms_norm",
        "swiglu",
        "silu_mul",
        "qkv_rope_cache",
        "decode_attention",
        "moe_gate",
    )
)


def by_torch_alone(name: str, dtype: torch.dtype) -> bool:
    """Whether no kernel in C serves ``cpu.<name>`` here."""
    return name not in IN_C or dtype not in KINDS or decode_library._library() is None


def require_compiler(name: str) -> None:
    """Skip the test where the kernel ``name`` can't be built; only the ordered ones need to be."""
    if name.startswith("ordered"):
        try:
            required("ordered")
        except NoLibraryError as reason:
            pytest.skip(str(reason))


def run(
    name: str, *, allocates: bool = False, by_torch: bool | None = None, **arguments: Any
) -> None:
    """Run ``cpu.<name>`` twice; the second time it must not allocate tensor storage, and call torch
    just where ``by_torch`` says so (None: where :func:`by_torch_alone` does)."""
    thunk = find_binder(f"cpu.{name}")(arguments)
    thunk()
    with FreshStorage() as counter:
        thunk()
    if by_torch is None:
        computed = next(arguments[key] for key in ("out", "query", "x") if key in arguments)
        by_torch = by_torch_alone(name, computed.dtype)
    assert (counter.total > 0) is by_torch
    assert bool(counter.fresh) == allocates, counter.fresh


def close(out: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = TOLERANCE[out.dtype]
    torch.testing.assert_close(out.float(), expected.float(), atol=tolerance, rtol=tolerance)
