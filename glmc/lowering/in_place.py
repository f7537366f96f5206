"""Writes of the calls of a phase: whether a place still has the value that it had before."""

from __future__ import annotations

from collections import Counter

from glmc.lowering.target import Value
from glmc_runtime.format.plan import (
    Argument,
    BufferArgument,
    Call,
    InputArgument,
    parts_of,
    storage_of,
)


class Calls(list[Call]):
    """Calls in order. A place alone says nothing of its value: a program may write it again."""

    def __init__(self) -> None:
        super().__init__()
        self._writes: Counter[Argument] = Counter()

    def append(self, call: Call) -> None:
        super().append(call)
        for name in call.writes:
            for part in parts_of(call.arguments[name]):
                self._writes[whole(part)] += 1

    def stamp(self, value: Value) -> str:
        """A key for what ``value`` holds now; it changes when the memory of it is written,
        through whatever view."""
        writes = self._writes[whole(storage_of(value.argument))]
        return f"{value.argument} {value.shape} {value.dtype} written {writes}"


def whole(storage: Argument) -> Argument:
    """The storage itself, however a view of it is shaped."""
    if isinstance(storage, InputArgument):
        return InputArgument(storage.input)
    return BufferArgument(storage.buffer) if isinstance(storage, BufferArgument) else storage
