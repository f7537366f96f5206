"""The values of one step on their way to a sink: whole, or in parts where it takes several
replays."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from glmc_runtime.record.plan_values import RecordedValue
from glmc_runtime.record.sink import Part, Sink
from glmc_runtime.replay.step import Step


class ValuesToSink:
    """Takes the values of ``replays`` replays, one after the other, that compute ``lengths`` tokens
    of the sequences."""

    def __init__(self, sink: Sink, lengths: Sequence[int], replays: int) -> None:
        self._sink, self._replays = sink, replays
        self._whole = {"tokens": sum(lengths), "sequences": len(lengths)}
        self._begin = {"tokens": 0, "sequences": 0}

    def take(self, each: RecordedValue, rows: Tensor) -> None:
        """The real rows of a value in the replay that is under way."""
        part = None
        if self._replays > 1:
            if each.rows.moves:
                begin, size = each.rows.evaluate(self._begin), each.rows.evaluate(self._whole)
                part = Part(0, begin, size)
            elif any(self._begin.values()):
                return  # it is the same in each replay
        for named in each.tensors:
            columns = slice(None) if named.columns is None else slice(*named.columns)
            self._sink.write(named.keys, rows[..., columns], named.facts, part)

    def replayed(self, step: Step) -> None:
        """The replay of a micro-batch has ended."""
        self._begin["tokens"] += step.real["tokens"]
        self._begin["sequences"] += sum(1 for chunk in step.chunks if chunk.logits)
