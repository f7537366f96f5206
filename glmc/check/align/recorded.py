"""A record as a reference: what it has of the values of a plan, by the keys of modules' tensors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from glmc.check.align.expectation import Shape, in_shape, with_parts
from glmc.check.align.run import Sequences
from glmc.check.align.sequences import token_ids
from glmc.errors import UsageError
from glmc_runtime.format.tensor_key import TensorKey
from glmc_runtime.format.values import PlanValue
from glmc_runtime.record.tensors import Record, RecordedTensor
from glmc_runtime.replay.step import Step


class RecordedModel:
    """An :class:`~glmc.check.align.expectation.Expectation`. A tensor of which some rows or
    statistics alone are stored is none that could be computed with."""

    times = 2.0

    def __init__(self, record: Record) -> None:
        self.label, self.facts = record.label, record.facts
        self._tensors: dict[tuple[int, str], RecordedTensor] = {}
        for tensor in record.tensors():
            if tensor.load is not None and tensor.rows is None:
                self._tensors.setdefault((tensor.step, str(tensor.key)), tensor)
        self._number = 0
        self._lengths: tuple[int, ...] = ()
        self._taken: set[tuple[int, str]] = set()

    def sequences(self) -> Sequences:
        """What was computed for the record. Raises UsageError where it does not say."""
        prompts = token_ids(self.facts.get("prompts"))
        if prompts is None:
            raise UsageError(
                "a record does not say which tokens it is of, so nothing can be computed beside it",
                place=self.label,
                remedy="record the reference with glmc record",
            )
        tokens = token_ids(self.facts.get("tokens")) or tuple(() for _ in prompts)
        steps = min(map(len, tokens))
        by_step = [[each[step] for each in tokens] for step in range(steps)]
        return Sequences(prompts, steps, by_step)

    def begin(self, number: int, step: Step) -> None:
        self._number = number
        self._lengths = tuple(len(chunk.tokens) for chunk in step.chunks)

    def value(self, value: PlanValue, shape: Shape) -> Tensor | None:
        return with_parts(value, shape, self._find)

    def untaken(self) -> tuple[str, ...]:
        """Names of tensors that were not taken for any value."""
        left = (name for step, name in self._tensors if (step, name) not in self._taken)
        return tuple(dict.fromkeys(left))

    def _find(self, captured: str | None, keys: Sequence[TensorKey], shape: Shape) -> Tensor | None:
        for key in keys:
            place = self._number, str(key)
            tensor = self._tensors.get(place)
            if tensor is None or tensor.load is None:
                continue
            found = in_shape(tensor.load(), shape, self._lengths)
            if found is not None:
                self._taken.add(place)
                return found
        return None
