"""The linear layers of the presets, to be tuned."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F

from glmc.presets.catalog import load_preset, preset_names
from glmc.presets.fields import read_fields
from glmc_runtime.kernels.cuda.linear.configurations import candidates, card_of
from tuning.shares import kv_heads_of_rank, share
from tuning.tunable import Arguments, Tunable

ROWS = (1, 2, 4, 8, 16, 32, 64)
FIRST = "glm-4-9b-0414"  # its products come first: time may run out
Shape = tuple[int, int]  # rows and columns of a weight


def preset_shapes(ranks: int = 1) -> tuple[list[Shape], list[Shape]]:
    """Of all presets on one of ``ranks`` cards: the products, and those of gate and up with SwiGLU.

    Heads, widths and the vocabulary are dealt evenly; a kv head that several ranks need, each has.
    Raises ValueError where a preset's do not divide: a plan's shares have zeros there.
    """
    names = sorted(preset_names(), key=lambda name: name != FIRST)
    plain: dict[Shape, None] = {}
    gated: dict[Shape, None] = {}
    for name in names:
        fields = read_fields(load_preset(name).config, place=name)
        hidden = fields.hidden_size
        heads = share(fields.num_attention_heads, ranks) * fields.head_dim
        keys = kv_heads_of_rank(fields.num_key_value_heads, ranks) * fields.head_dim
        plain |= {(heads + 2 * keys, hidden): None, (hidden, heads): None}
        if fields.dense_layers:
            width = share(fields.intermediate_size, ranks)
            plain[hidden, width] = None
            gated[2 * width, hidden] = None
        plain[share(fields.vocab_size, ranks), hidden] = None
    return list(plain), list(gated)


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
    card = card_of(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    outputs = n // 2 if is_gated else n
    return Tunable(
        kernel="linear_swiglu" if is_gated else "linear",
        key=f"{n}x{k}",
        rows=rows,
        dtype=dtype,
        bytes=(n * k + rows * (k + outputs)) * dtype.itemsize,
        make=partial(_make, is_gated, n, k, rows, dtype),
        reference=partial(_reference, is_gated),
        candidates=partial(candidates, dtype, n, k, rows, is_gated, card),
        library={"variant": "cublas"},
    )


def tunables(ranks: Sequence[int] = (1,)) -> list[Tunable]:
    """All shapes of these numbers of cards in bfloat16, those at one row first."""
    shapes: dict[tuple[bool, int, int], None] = {}
    for count in ranks:
        plain, gated = preset_shapes(count)
        shapes |= dict.fromkeys((False, *shape) for shape in plain)
        shapes |= dict.fromkeys((True, *shape) for shape in gated)
    return [
        _tunable(is_gated, n, k, rows, torch.bfloat16) for rows in ROWS for is_gated, n, k in shapes
    ]
