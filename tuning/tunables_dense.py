"""The linear layers of GLM-4-9B and GLM-4.5-Air, to be tuned."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from glmc_runtime.kernels.cuda.launch import multiprocessors
from glmc_runtime.kernels.cuda.linear.linear import candidates
from tuning.tunable import Arguments, Tunable

ROWS = (1, 2, 4, 8, 16, 32, 64)
HIDDEN = 4096
LINEAR = (
    (4608, HIDDEN),  # 9B: query, key and value
    (HIDDEN, HIDDEN),  # 9B: attention's output
    (HIDDEN, 13696),  # 9B: down
    (14336, HIDDEN),  # Air: query, key and value
    (HIDDEN, 12288),  # Air: attention's output
    (HIDDEN, 10944),  # Air: down of the dense layer
    (151552, HIDDEN),  # both: the head
)
LINEAR_SWIGLU = ((27392, HIDDEN), (21888, HIDDEN))  # 9B; Air's dense layer


def _make(
    is_gated: bool,
    n: int,
    k: int,
    rows: int,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator,
) -> Arguments:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype, device=device, generator=generator)

    def poisoned(width: int) -> torch.Tensor:
        return torch.full((rows, width), torch.nan, dtype=dtype, device=device)

    weight = draw(n, k).mul_(k**-0.5)
    if is_gated:
        return {
            "x": draw(rows, k),
            "weight": weight,
            "merged": poisoned(n),
            "out": poisoned(n // 2),
        }
    return {"x": draw(rows, k), "weight": weight, "bias": draw(n), "out": poisoned(n)}


def _reference(is_gated: bool, arguments: Arguments) -> dict[str, torch.Tensor]:
    product = arguments["x"].double() @ arguments["weight"].double().t()
    if is_gated:
        gate, up = product.chunk(2, dim=-1)
        return {"out": F.silu(gate) * up}
    return {"out": product + arguments["bias"].double()}


def _tunable(is_gated: bool, n: int, k: int, rows: int, dtype: torch.dtype) -> Tunable:
    processors = multiprocessors(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    outputs = n // 2 if is_gated else n
    return Tunable(
        kernel="linear_swiglu" if is_gated else "linear",
        key=f"{n}x{k}",
        rows=rows,
        dtype=dtype,
        bytes=(n * k + rows * (k + outputs)) * dtype.itemsize,
        make=partial(_make, is_gated, n, k, rows, dtype),
        reference=partial(_reference, is_gated),
        candidates=partial(candidates, dtype, n, k, rows, is_gated, processors),
        library={"variant": "cublas"},
    )


def tunables() -> list[Tunable]:
    """All shapes in bfloat16, those of the 9B at one row first: time may run out."""
    shapes = [*((False, *shape) for shape in LINEAR), *((True, *shape) for shape in LINEAR_SWIGLU)]
    return [
        _tunable(is_gated, n, k, rows, torch.bfloat16) for rows in ROWS for is_gated, n, k in shapes
    ]
