"""Sides that take turns: each round has a block of every side, in an order that swaps each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from bench.cpu.work import PROMPT, Reads, Work, random_tokens
from bench.processes import Running


@dataclass(frozen=True)
class Middle:
    """Median and quartiles; of fewer than four values the least and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Middle:
        if len(values) < 4:
            return cls(median(values), min(values), max(values))
        low, middle, high = quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)


@dataclass(frozen=True)
class Measured:
    """Seconds of a step of each side, round by round, and bytes a second of a plain read."""

    work: Work
    seconds: dict[str, list[float]]
    reads: list[float]

    def rates(self, side: str) -> Middle:
        """Tokens a second."""
        return Middle.of([self.work.size / each for each in self.seconds[side]])

    def ratios(self, side: str, base: str) -> Middle:
        """How many times as fast as ``side`` the ``base`` was, in the same round."""
        pairs = zip(self.seconds[side], self.seconds[base], strict=True)
        return Middle.of([one / other for one, other in pairs])

    def share(self, side: str, bytes_read: float) -> float:
        """Of the plain read of the same round, what a step that reads so much reached."""
        pairs = zip(self.seconds[side], self.reads, strict=True)
        return median([bytes_read / seconds / read for seconds, read in pairs])


@dataclass
class Use:
    """The most anonymous memory that was seen, MiB, and how much a side did while it waited."""

    anonymous: float = 0.0
    peak: float = 0.0
    spun: float = 0.0
    waited: float = 0.0

    def note(self, answer: dict[str, Any]) -> None:
        self.anonymous = max(self.anonymous, answer.get("RssAnon", 0.0))
        self.peak = max(self.peak, answer.get("VmHWM", 0.0))
        self.spun, self.waited = answer["spun"], answer["waited"]


class Turns:
    """All sides of a model, and what was noted of each."""

    def __init__(self, sides: Sequence[Running], vocabulary: int, clock: Callable[[], float]):
        self._sides, self._vocabulary = list(sides), vocabulary
        self._reads = Reads(clock)
        self.uses = {side.name: Use() for side in sides}

    def measure(self, work: Work, names: Sequence[str]) -> Measured:
        """One round that warms up, and those that count."""
        sides = [side for side in self._sides if side.name in names]
        prompts = random_tokens(work.size, work.size, PROMPT, self._vocabulary)
        if work.kind == "decode":
            for side in sides:
                room = (work.rounds + 1) * work.steps
                self._ask(side, "begin", prompts=prompts, room=room)
        seconds: dict[str, list[float]] = {side.name: [] for side in sides}
        reads = []
        for number in range(-1, work.rounds):
            read = self._reads.best()
            for side in sides[:: -1 if number % 2 else 1]:
                taken = self._block(side, work, number)
                if number >= 0:
                    seconds[side.name].append(taken)
            if number >= 0:
                reads.append(read)
        for side in sides:
            self._ask(side, "close")
        return Measured(work, seconds, reads)

    def _block(self, side: Running, work: Work, number: int) -> float:
        """Seconds of a step, or of the prefill; every side has the same tokens in a round."""
        if work.kind == "prefill":
            prompt = random_tokens(number + 2, 1, work.size, self._vocabulary)
            return float(self._ask(side, "prefill", prompts=prompt)["seconds"])
        steps = random_tokens(number + 2, work.steps, work.size, self._vocabulary)
        return float(self._ask(side, "decode", steps=steps)["seconds"]) / work.steps

    def _ask(self, side: Running, order: str, **given: Any) -> dict[str, Any]:
        answer = side.ask(order, **given)
        self.uses[side.name].note(answer)
        return answer
