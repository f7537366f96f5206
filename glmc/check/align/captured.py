"""The captured program as a reference: what the model computes before any pass has touched it.

Each sequence is computed whole in every step, and the rows of its new tokens are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from glmc.check.align.expectation import Shape, in_shape, with_parts
from glmc.check.verify.execution import BoundInputs, values_of
from glmc.check.verify.weights import ModelWeights
from glmc.ir.program import Program
from glmc_runtime.format.tensor_key import TensorKey
from glmc_runtime.format.values import PlanValue, Values
from glmc_runtime.replay.step import Step


class CapturedModel:
    """An :class:`~glmc.check.align.expectation.Expectation`; ``values`` say what is asked for."""

    label = "the model as captured"
    times = 2.0

    def __init__(self, program: Program, weights: ModelWeights, values: Values) -> None:
        self._program, self._weights = program, weights
        self._texts: list[list[int]] = []
        self._step: Step | None = None
        self._made: list[dict[str, Tensor]] = []
        names = {name for some in values.phases.values() for each in some for name in _names(each)}
        self._wanted = {node for node in program.graph.nodes if node.meta.get("id") in names}
        dtype = str(program.dtype).removeprefix("torch.")
        self.facts: Mapping[str, Any] = {
            "tool": "glmc",
            "made_by": "the captured program, cpu",
            "model": program.model.name,
            "dtype": dtype,
        }

    def begin(self, number: int, step: Step) -> None:
        if number == 0:
            self._texts = [[] for _ in step.chunks]
        self._step, self._made = step, []
        for text, chunk in zip(self._texts, step.chunks, strict=True):
            text.extend(chunk.tokens)
            inputs = {
                "token_ids": torch.tensor([text]),
                "positions": torch.arange(len(text)).unsqueeze(0),
            }
            table = self._weights.table(self._program)
            bound = BoundInputs(self._program, inputs, table)
            made = values_of(self._program, bound, self._wanted)
            self._made.append({node.meta["id"]: value for node, value in made.items()})

    def value(self, value: PlanValue, shape: Shape) -> Tensor | None:
        return with_parts(value, shape, self._find)

    def _find(self, captured: str | None, keys: Sequence[TensorKey], shape: Shape) -> Tensor | None:
        assert self._step is not None
        rows = []
        for text, chunk, made in zip(self._texts, self._step.chunks, self._made, strict=True):
            tensor = None if captured is None else made.get(captured)
            if tensor is None:
                return None
            whole = in_shape(tensor, (len(text), *shape[1:]), [len(text)])
            if whole is None:
                return None
            # Of logits there is a row for each sequence.
            count = len(chunk.tokens) if shape[0] == self._step.tokens else 1
            rows.append(whole[len(text) - count :])
        return torch.cat(rows)


def _names(value: PlanValue) -> set[str]:
    parts = {part.captured for part in value.parts}
    return {name for name in (value.captured, *parts) if name is not None}
