"""Symbolic step sizes: fake inputs sized by symbols such as ``tokens``, and extents read back.

One ShapeEnv per phase; torch's own symbols (sympy) carry the sizes through every fake kernel, and
:meth:`Symbols.extent` reads a size back as a linear form.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import SymInt, Tensor
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)

from glmc.errors import InternalError
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.step_inputs import TABLE

BLOCKS = "blocks"
"""In a shape, the number of blocks of the cache."""
# Example sizes of the symbols: distinct, so that equal sizes always mean the same symbol.
_HINTS = {"tokens": 1009, "sequences": 211, BLOCKS: 499, TABLE: 89}
_OTHER_HINTS = (1511, 1709, 1907, 2111, 2309, 2503)
_NO_STEP_SIZE = (BLOCKS, TABLE)

Dimension = int | str


@dataclass
class Symbols:
    """The symbols of one phase. ``names`` maps a sympy symbol to its step size."""

    fake_mode: FakeTensorMode = field(
        default_factory=lambda: FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=False)
    )
    names: dict[sympy.Symbol, str] = field(default_factory=dict)
    hints: dict[str, int] = field(default_factory=lambda: dict(_HINTS))

    def fake(self, name: str, dims: tuple[Dimension, ...], dtype: torch.dtype) -> Tensor:
        """A fake input; a dim is a number, a size in symbols of the step such as ``tokens`` or
        ``sequences+1``, ``blocks`` (of the cache) or ``table`` (width of a block table)."""
        sizes = [dim if isinstance(dim, int) else self._hint(dim) for dim in dims]
        kinds = [DimDynamic.STATIC if isinstance(dim, int) else DimDynamic.DUCK for dim in dims]
        context: Any = StatelessSymbolicContext(dynamic_sizes=kinds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tensor = self.fake_mode.from_tensor(
                torch.empty(sizes, dtype=dtype, device="meta"),
                source=ConstantSource(name),
                symbolic_context=context,
            )
        for dim, size in zip(dims, tensor.shape, strict=True):
            if isinstance(dim, str) and isinstance(size, SymInt):
                self.names[size.node.expr] = dim
        return tensor

    def _hint(self, dim: str) -> int:
        extent = Extent.parse(dim)
        for symbol in extent.symbols:
            if symbol not in self.hints:
                self.hints[symbol] = _OTHER_HINTS[len(self.hints) - len(_HINTS)]
        return extent.evaluate(self.hints)

    def extent(self, size: int | SymInt) -> Extent:
        """A size as a linear form in the symbols of the step; raises InternalError otherwise."""
        if isinstance(size, int):
            return Extent(constant=size)
        expression = sympy.expand(size.node.expr)
        total = Extent()
        for symbol, factor in expression.as_coefficients_dict().items():
            total += self._term(symbol, factor, size)
        return total

    def _term(self, symbol: sympy.Expr, factor: sympy.Expr, size: SymInt) -> Extent:
        name = "" if symbol == 1 else self.names.get(symbol, str(symbol))
        if int(factor) == factor and (symbol == 1 or symbol in self.names):
            unit = Extent.parse(name or 1)
            if not set(_NO_STEP_SIZE) & set(unit.symbols):
                return unit * int(factor)
        raise InternalError(f"size {size} is not linear in the step", found=name)
