"""Float32 products in float32, whatever the program allows torch elsewhere.

torch has switches for the whole process by which products of float32 may be rounded to TF32. A
linear layer of a plan does not follow them, so that an artifact gives the same answers wherever it
is loaded, nor does the router, whose rounding decides the choice of experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import torch

from glmc_runtime.kernels import Thunk

_ONE_AT_A_TIME = Lock()  # what one thread restores must not be seen by another's product


@contextmanager
def exact_float32() -> Iterator[None]:
    """No TF32 in cuBLAS inside; after it every switch is as it was."""
    with _ONE_AT_A_TIME:
        restore = _switch_off()
        try:
            yield
        finally:
            restore()


def exact(thunk: Thunk) -> Thunk:
    """``thunk`` without TF32."""

    def run() -> None:
        with exact_float32():
            thunk()

    return run


def _switch_off() -> Callable[[], None]:
    """Have cuBLAS multiply exactly; what undoes it."""
    switches = torch.backends.cuda.matmul
    try:
        allowed = switches.allow_tf32
    except RuntimeError:
        # The program uses the names that torch has beside the older ones since 2.9. To set the one
        # where the other was set is an error at the next product.
        return _switch_off_newer()
    if not allowed:
        return _nothing
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # another backend is switched by its newer name
        precision = "high"
    switches.allow_tf32 = False

    def restore() -> None:
        switches.allow_tf32 = True  # which means "high"
        if precision == "medium":
            torch.set_float32_matmul_precision(precision)

    return restore


def _switch_off_newer() -> Callable[[], None]:
    switches = torch.backends.cuda.matmul
    before = switches.fp32_precision
    if before == "ieee":
        return _nothing
    # Read without a value of its own, it answers that of all backends, and must go on doing so.
    inherited = getattr(torch.backends, "fp32_precision", None) == before
    switches.fp32_precision = "ieee"

    def restore() -> None:
        switches.fp32_precision = "none" if inherited else before

    return restore


def _nothing() -> None:
    pass
