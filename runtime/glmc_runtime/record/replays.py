"""Replays of a phase that hand out the values of each step: call by call, or from taps."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from glmc_runtime.errors import PlanError
from glmc_runtime.format.dependence import Symbols
from glmc_runtime.format.plan import Call
from glmc_runtime.record.plan_values import RecordedValue
from glmc_runtime.record.receiver import Receiver
from glmc_runtime.record.rows import real_rows, written_rows
from glmc_runtime.record.taps import TapGroup, TappedBinder, in_arena
from glmc_runtime.replay.bind import PhaseBinder
from glmc_runtime.replay.cache import KVCache
from glmc_runtime.replay.phase import PhaseReplay
from glmc_runtime.replay.step import Step


class RecordedPhase:
    """A phase in an engine whose steps also give the values of group ``group`` to ``target``, real
    rows only, in the order of the calls."""

    has_greedy = False

    def __init__(self, groups: Sequence[TapGroup], cache: KVCache) -> None:
        self.groups = groups
        self.group = 0
        self.target: Receiver | None = None
        self._cache = cache

    def run(self, step: Step) -> Tensor:
        """Logits [real sequences, vocabulary], as :meth:`PhaseReplay.run`."""
        logits = self._run(step)
        if self.target is not None:
            ends = sum(1 for chunk in step.chunks if chunk.logits)
            self.target.replayed(step.real["tokens"], ends)
        return logits

    @abstractmethod
    def _run(self, step: Step) -> Tensor: ...

    def run_greedy(self, step: Step) -> Tensor:
        raise PlanError("a recorded step gives logits")

    def trace(self, step: Step) -> Iterator[tuple[Call, dict[str, Any]]]:
        raise PlanError("a recorded step is traced by its recorder")

    def _hand_out(self, each: RecordedValue, whole: Tensor | None, step: Step) -> None:
        """``whole`` is the value at the size of the bucket; None of what stands in the cache."""
        if self.target is None:
            return
        if whole is not None:
            rows = real_rows(whole, each.shape, step)
        else:
            value = each.value
            assert value.cache is not None and value.layer is not None
            cache = self._cache.tensor(value.cache, value.layer)
            rows = written_rows(cache, self._cache.spec, step)
        self.target.take(each, rows)


class CalledPhase(RecordedPhase):
    """Runs call by call; each value is handed out where it stands, right after its last call."""

    def __init__(
        self,
        replay: PhaseReplay,
        binder: PhaseBinder,
        groups: Sequence[TapGroup],
        cache: KVCache,
    ) -> None:
        super().__init__(groups, cache)
        self._replay, self._binder = replay, binder

    def _run(self, step: Step) -> Tensor:
        symbols = Symbols(step.sizes, step.real)
        completed: dict[int, list[RecordedValue]] = defaultdict(list)
        for each in self.groups[self.group].values:
            completed[each.value.call].append(each)
        for position, _ in enumerate(self._replay.trace(step)):
            for each in completed.get(position, ()):
                stands = each.value.buffer is not None
                whole = in_arena(self._binder, each, symbols) if stands else None
                self._hand_out(each, whole, step)
        return self._binder.output(symbols)


class TappedPhase(RecordedPhase):
    """Replays a step for each group with the group's taps in it; values are handed out at the end.

    A layer's tensor of the cache is written by no call of another one, so what a step wrote there
    is read at the end without a copy.
    """

    def __init__(
        self,
        replays: Sequence[PhaseReplay],
        binders: Sequence[TappedBinder],
        groups: Sequence[TapGroup],
        cache: KVCache,
    ) -> None:
        super().__init__(groups, cache)
        self._replays, self._binders = replays, binders

    def _run(self, step: Step) -> Tensor:
        logits = self._replays[self.group].run(step)
        group, binder = self.groups[self.group], self._binders[self.group]
        symbols = Symbols(step.sizes, step.real)
        for each, offset in zip(group.values, group.offsets, strict=True):
            whole = None
            if offset is not None:
                whole = binder.copied(in_arena(binder, each, symbols), offset)
            self._hand_out(each, whole, step)
        return logits
