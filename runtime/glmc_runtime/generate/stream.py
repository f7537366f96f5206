"""The events of a ``stream`` call, one by one."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from types import TracebackType

from glmc_runtime.engine.exclusive import Exclusive
from glmc_runtime.generate.events import Completion, Event
from glmc_runtime.generate.generation import Generation


class EventStream(Iterator[Event]):
    """Iterate over it, once. Leaving it early, by ``close``, the end of a ``with`` or letting go
    of it, gives the blocks of its requests back. Threads that share one get its events in turns."""

    def __init__(self, generation: Generation, exclusive: Exclusive) -> None:
        self.answers = generation.answers  # (request, choice) of each, in their order
        self.fitting = generation.fitting  # new tokens, for prompts whose answer the context cuts
        self._generation = generation
        self._exclusive = exclusive
        self._ready: deque[Event] = deque()
        self._over = False
        self._reading = threading.RLock()
        self._finalizer = weakref.finalize(self, exclusive.end, generation.close)
        self._finalizer.atexit = False

    def __next__(self) -> Event:
        with self._reading:
            if not self._ready and not self._over:
                self._run()
            try:
                return self._ready.popleft()
            except IndexError:  # also where another thread has just closed the stream
                raise StopIteration from None

    def _run(self) -> None:
        try:
            with self._exclusive:
                self._ready.extend(self._generation.turn())
        except BaseException:
            self._over = True
            self._finalizer()
            raise
        if not self._ready:
            self._over = True
            self._finalizer.detach()

    def completions(self) -> list[Completion]:
        """Run all to the end: a completion for each of ``answers``. Leaving early, by an error,
        gives all blocks back. Where other threads that do the same hold all blocks, it waits."""
        completions = {answer: Completion([], "", "") for answer in self.answers}
        self._generation.wait = self._exclusive.wait
        with self, self._exclusive.working():
            for event in self:
                completions[event.request, event.choice].take(event)
        return list(completions.values())

    def close(self) -> None:
        """Give all blocks back; there are no more events then."""
        self._over = True
        with self._exclusive:
            self._generation.close()
        self._ready.clear()
        self._finalizer.detach()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
