"""The values of all ranks, made into those of a record, and how far ranks are apart in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from glmc_runtime.errors import RankError
from glmc_runtime.record.plan_values import RecordedValue
from glmc_runtime.record.ranks import wire
from glmc_runtime.record.shares import whole_of
from glmc_runtime.record.values_to_sink import ValuesToSink

Message = tuple[dict[str, Any], "Tensor | None"]


class ValuesOfRanks:
    """Takes the messages of all ranks in step, and hands on what they have together.

    A tensor's facts say ``dealt``: whole, joined or summed, and ``ranks_apart``, see
    :class:`~glmc_runtime.record.shares.Together`. Those of the record say of how many ``ranks`` it
    is; how many of its values are unequal among ranks that should have them alike; and of these how
    far they are apart and the first one's node."""

    def __init__(
        self,
        receiver: ValuesToSink,
        values: Mapping[str, Sequence[RecordedValue]],
        read: Sequence[Callable[[], Message]],
    ) -> None:
        self._receiver, self._read = receiver, read
        self._values = {phase: {each.name: each for each in some} for phase, some in values.items()}
        self._phase, self._step = "", 0
        self._apart: dict[tuple[int, str, str], float] = {}

    def follow(self) -> None:
        """Until the ranks have told the facts of their runs."""
        while True:
            messages = [read() for read in self._read]
            said = [message for message, _ in messages]
            if said[0]["kind"] == wire.FACTS:
                self._describe([each["facts"] for each in said])
                return
            _require_alike(said)
            self._take(said[0], [tensor for _, tensor in messages if tensor is not None])

    def _take(self, message: dict[str, Any], shares: list[Tensor]) -> None:
        receiver, kind = self._receiver, message["kind"]
        if kind == wire.BEGIN:
            self._step = message["step"]
            receiver.begin(self._step, message["lengths"])
        elif kind == wire.RUN:
            self._phase = message["phase"]
            receiver.run(self._phase, message["replays"])
        elif kind == wire.REPLAYED:
            receiver.replayed(message["tokens"], message["sequences"])
        else:
            self._put(self._values[self._phase][message["name"]], shares)

    def _put(self, each: RecordedValue, shares: list[Tensor]) -> None:
        together, place = whole_of(each.value, shares), (self._step, each.name, each.value.node)
        apart = together.apart
        if apart is not None:  # of a value that comes in parts the largest
            apart = self._apart[place] = max(self._apart.get(place, 0.0), apart)
        facts = {"dealt": together.how, "ranks_apart": apart}
        self._receiver.put(each, together.tensor, facts)

    def _describe(self, facts: list[dict[str, Any]]) -> None:
        first = facts[0]
        if any(each["tokens"] != first["tokens"] for each in facts):
            raise RankError(
                "ranks have computed different tokens, so their values are of other steps",
                expected="logits that are the same on all ranks",
                found="; ".join(str(each["tokens"])[:80] for each in facts),
                remedy="record with --like a record of the same prompts, which says the tokens",
            )
        unequal = {place: apart for place, apart in self._apart.items() if apart > 0}
        told: dict[str, Any] = {"ranks": len(facts), "ranks_unequal": len(unequal)}
        if unequal:
            told |= {"ranks_apart": max(unequal.values()), "ranks_first": next(iter(unequal))[2]}
        equal = all(each["replays_equal"] for each in facts)
        self._receiver.describe({**first, "replays_equal": equal, **told})


def _require_alike(said: Sequence[dict[str, Any]]) -> None:
    other = next((each for each in said if each != said[0]), None)
    if other is not None:
        raise RankError(
            "ranks record other values than each other",
            expected=str(said[0])[:160],
            found=str(other)[:160],
        )
