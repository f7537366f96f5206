"""Float32 products in float32, whatever the program allows torch elsewhere.

torch has one switch per process by which products of float32 may be rounded to TF32. An artifact
gives the same answers wherever it is loaded, so its products do not follow it; of the router's last
bits experts hang.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from glmc_runtime.kernels import Thunk


@contextmanager
def exact_float32() -> Iterator[None]:
    """No TF32 in cuBLAS inside."""
    try:
        before, exactly, choose = (
            torch.get_float32_matmul_precision(),
            "highest",
            torch.set_float32_matmul_precision,
        )
    except RuntimeError:
        # The program uses the switch that torch has beside this one since 2.9. To set the one where
        # the other was set is an error at the next product.
        before, exactly, choose = torch.backends.cuda.matmul.fp32_precision, "ieee", _choose_newer
    if before == exactly:
        yield
        return
    choose(exactly)
    try:
        yield
    finally:
        choose(before)


def _choose_newer(precision: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = precision


def exact(thunk: Thunk) -> Thunk:
    """``thunk`` without TF32."""

    def run() -> None:
        with exact_float32():
            thunk()

    return run
