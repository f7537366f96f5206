"""Rules for what only traced programs have: heads and caches of any strides.

The same for each family of kernels that has these; what memory a kernel works in is the family's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from glmc.lowering.target import Emitter, Op, Rule, Value, fixed
from glmc.lowering.values import flat
from glmc_runtime.format.extent import Extent
from glmc_runtime.kernels.cpu.processor import multiplies

FLOAT = torch.float32
Scratch = dict[str, Any]


@dataclass(frozen=True)
class TracedRules:
    """The rules, with kernels called ``family.rope`` and so on."""

    family: str

    def rules(self) -> dict[str, Rule]:
        return {
            "rope": self.rope,
            "norm_rope": self.norm_rope,
            "masked_attention": self.masked_attention,
        }

    def _table(self, op: Op, emit: Emitter, dtype: torch.dtype) -> Value:
        """cos and sin of the step's positions, made once for all layers that read them."""
        positions, frequencies = op.tensor("positions"), op.tensor("inverse_frequencies")
        scaling = op.number("scaling")
        key = f"rope {emit.stamp(positions)} {emit.stamp(frequencies)} {scaling} {dtype}"
        known = emit.notes.get(key)
        if known is not None:
            return known
        if frequencies.dtype != FLOAT:  # of a model that was cast whole: angles are in float32
            wide = emit.temporary("frequencies", frequencies.shape, FLOAT)
            emit.call("aten.copy", writes=("out",), source=frequencies, out=wide)
            frequencies = wide
        rows = flat(positions)
        half = frequencies.dim(0)
        by_pair = (rows.shape[0], fixed(half))
        table = emit.temporary("rope_table", (rows.shape[0], fixed(2 * half)), dtype)
        emit.call(
            f"{self.family}.rope_table",
            writes=("out", "angles", "waves"),
            positions=rows,
            frequencies=frequencies,
            scaling=scaling,
            angles=emit.temporary("angles", by_pair, FLOAT),
            waves=emit.temporary("waves", by_pair, FLOAT),
            out=table,
        )
        emit.notes[key] = table
        return table

    def _rope(self, op: Op, emit: Emitter, norm: Scratch) -> None:
        x = op.tensor("x")
        table = self._table(op, emit, x.dtype)
        scratch = self.rope_scratch(x, fixed(table.dim(1) // 2), bool(norm), emit)
        emit.call(
            f"{self.family}.rope",
            writes=("out", *scratch),
            x=x,
            table=table,
            interleaved=op.flag("interleaved"),
            out=emit.result(),
            **norm,
            **scratch,
        )

    def rope(self, op: Op, emit: Emitter) -> None:
        self._rope(op, emit, {})

    def norm_rope(self, op: Op, emit: Emitter) -> None:
        self._rope(op, emit, {"weight": op.tensor("weight"), "eps": op.number("eps")})

    def rope_scratch(self, x: Value, pairs: Extent, normed: bool, emit: Emitter) -> Scratch:
        """For a rotation of ``pairs`` of entries in each head of ``x``, ``normed`` or not."""
        product = emit.temporary("product", (*x.shape[:-1], pairs), x.dtype)
        if not normed:
            return {"product": product}
        return {
            "product": product,
            "normed": emit.temporary("normed", x.shape, x.dtype),
            "hidden": emit.temporary("hidden", x.shape, FLOAT),
            "square": emit.temporary("square", x.shape, FLOAT),
            "variance": emit.temporary("variance", (*x.shape[:-1], fixed(1)), FLOAT),
        }

    def masked_attention(self, op: Op, emit: Emitter) -> None:
        q, mask = op.tensor("q"), op.optional_tensor("mask")
        if mask is not None and mask.dtype == torch.bool:
            mask = self._added(mask, q.dtype, emit)
        keys = op.tensor("k")
        scratch = self.attention_scratch(q, keys, emit)
        emit.call(
            f"{self.family}.masked_attention",
            writes=("out", *scratch),
            query=q,
            keys=keys,
            values=op.tensor("v"),
            mask=mask,
            scale=op.number("scale"),
            causal=op.flag("causal"),
            safe_softmax=op.flag("safe_softmax"),
            out=emit.result(),
            **scratch,
        )

    def attention_scratch(self, q: Value, keys: Value, emit: Emitter) -> Scratch:
        """For the attention of ``q`` to ``keys``."""
        if q.shape[1] != fixed(1):
            return {}
        size = (q.shape[0] * q.dim(2), keys.shape[2])
        scratch = {"floats": emit.temporary("floats", size, FLOAT)}
        # What is traced runs on the machine that traces it.
        if multiplies(q.dtype):
            return {**scratch, "scores": emit.temporary("scores", size, q.dtype)}
        return {**scratch, "wide": emit.temporary("wide", keys.shape, FLOAT)}

    def _added(self, mask: Value, dtype: torch.dtype, emit: Emitter) -> Value:
        """What is added to the scores for a mask of what is seen, made once for all layers."""
        key = f"mask {emit.stamp(mask)} {dtype}"
        known = emit.notes.get(key)
        if known is None:
            known = emit.temporary("mask", mask.shape, dtype)
            emit.call(f"{self.family}.additive_mask", writes=("out",), mask=mask, out=known)
            emit.notes[key] = known
        return known
