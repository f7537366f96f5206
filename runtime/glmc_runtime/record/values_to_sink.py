"""The values of a run on their way to a sink: whole, or in parts where a step takes several
replays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from glmc_runtime.record.plan_values import RecordedValue
from glmc_runtime.record.shares import whole_of
from glmc_runtime.record.sink import Part, Sink


class ValuesToSink:
    """A :class:`~glmc_runtime.record.receiver.Receiver` of the values of one process."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._whole: dict[str, int] = {}
        self._begin: dict[str, int] = {}
        self._replays = 1

    def begin(self, step: int, lengths: Sequence[int]) -> None:
        self._whole = {"tokens": sum(lengths), "sequences": len(lengths)}
        self._sink.begin(step, lengths)

    def run(self, phase: str, replays: int) -> None:
        self._replays = replays
        self._begin = {"tokens": 0, "sequences": 0}

    def take(self, each: RecordedValue, rows: Tensor) -> None:
        self.put(each, whole_of(each.value, [rows]).tensor, {})

    def put(self, each: RecordedValue, rows: Tensor, facts: Mapping[str, Any]) -> None:
        """A value as all ranks have it together, with ``facts`` beside its own."""
        part = None
        if self._replays > 1:
            if each.rows.moves:
                begin, size = each.rows.evaluate(self._begin), each.rows.evaluate(self._whole)
                part = Part(0, begin, size)
            elif any(self._begin.values()):
                return  # it is the same in each replay
        for named in each.tensors:
            columns = slice(None) if named.columns is None else slice(*named.columns)
            self._sink.write(named.keys, rows[..., columns], {**named.facts, **facts}, part)

    def replayed(self, tokens: int, sequences: int) -> None:
        self._begin["tokens"] += tokens
        self._begin["sequences"] += sequences

    def describe(self, facts: Mapping[str, Any]) -> None:
        self._sink.describe(facts)
