"""Generate for many requests: prompts enter as rows and blocks get free, finished ones leave.

The policy: every step decodes one token for each request whose prompt is cached, and beside them
computes prompt tokens of the others, oldest request first. These prompt tokens are at most what the
largest prefill bucket has room for beside the decoded ones (at least half a bucket, then in a
second replay) and never more than ``prefill_tokens``, if given; so this bounds how long a prompt,
however long, holds up the texts that are being written.

Where the plans compute the greedy tokens, no logits are copied for a step that draws only these;
and while all requests are greedy and none has prompt left or waits, the device runs a step ahead
(:mod:`glmc_runtime.run_ahead`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glmc_runtime.errors import CapacityError, RequestError
from glmc_runtime.sampling import Sampler, SamplingParameters, next_tokens
from glmc_runtime.sequences import Part, Sequence, blocks_for
from glmc_runtime.text import TextStream

if TYPE_CHECKING:
    from glmc_runtime.session import Session


@dataclass(frozen=True)
class Event:
    """One new token of request number ``request``.

    ``text`` is what became readable with it (empty without a tokenizer and inside a character).
    ``finish_reason`` is None, or on the last token ``stop``, ``length`` or ``context``.
    """

    request: int
    token: int
    text: str
    finish_reason: str | None


@dataclass
class Completion:
    """All of one request: its new tokens (the eos id included), their text, why it ended."""

    tokens: list[int]
    text: str
    finish_reason: str

    def take(self, event: Event) -> None:
        self.tokens.append(event.token)
        self.text += event.text
        self.finish_reason = event.finish_reason or self.finish_reason


@dataclass(frozen=True)
class Stop:
    """When a request ends: ``length`` new tokens, or any of ``token_ids``."""

    length: int
    token_ids: frozenset[int]


@dataclass(eq=False)
class _Request:
    number: int
    sequence: Sequence
    sampler: Sampler
    text: TextStream
    new_tokens: int = 0
    token: int = -1

    @property
    def prompt_left(self) -> int:
        """Tokens to compute before the next one can be drawn, other than the one drawn last."""
        return len(self.sequence) - self.sequence.cached

    @property
    def next_length(self) -> int:
        """Tokens cached when the next one is drawn."""
        return len(self.sequence) + (0 if self.prompt_left else 1)


class Generation:
    """The requests of one ``stream`` call and the loop that serves them."""

    def __init__(self, session: Session, stop: Stop, prefill_tokens: int | None = None) -> None:
        if stop.length < 1:
            raise RequestError("max_new_tokens is out of range", expected="at least 1")
        if prefill_tokens is not None and prefill_tokens < 1:
            raise RequestError("prefill_tokens is out of range", expected="at least 1, or None")
        self._prefill_tokens = prefill_tokens
        self._session = session
        self._stop = stop
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []

    def add(self, sequence: Sequence, parameters: SamplingParameters) -> None:
        """Queue a request; raises :class:`CapacityError` when the cache can never hold it."""
        session = self._session
        longest = min(len(sequence) + self._stop.length - 1, session.max_context)
        needed = blocks_for(longest, session.manifest.cache.block_size)
        usable = session.cache.allocator.usable
        if needed > usable:
            raise CapacityError(
                "a request can't ever fit into the KV cache",
                expected=f"{needed} blocks for {longest} tokens",
                found=f"{usable} blocks in all",
                remedy="shorten the prompt, lower max_new_tokens, or load with more kv_blocks",
            )
        number = len(self._waiting)
        self._waiting.append(_Request(number, sequence, Sampler(parameters), session.text.stream()))

    def events(self) -> Iterator[Event]:
        """Run until every request has finished. Closing the iterator gives all blocks back."""
        try:
            while self._waiting or self._running:
                self._admit()
                if not self._make_room():
                    if not self._admittable():
                        raise self._starved()
                elif self._may_run_ahead():
                    yield from self._run_ahead()
                else:
                    parts, drawing = self._next_step()
                    yield from self._take(drawing, self._draw(parts, drawing))
        finally:
            for request in self._running:
                self._session.release(request.sequence)
            self._running = []

    def _admit(self) -> None:
        """Let waiting requests in that fit next to the running ones, in their order."""
        session = self._session
        # A block for each running request stays free, or the newcomer would be put back at once.
        free = session.cache.allocator.available - sum(
            max(1, session.blocks_needed(request.sequence, request.next_length))
            for request in self._running
        )
        while self._waiting and len(self._running) < session.decode_buckets.largest:
            sequence = self._waiting[0].sequence
            free -= session.blocks_needed(sequence, len(sequence))
            if free < 0:
                break
            self._running.append(self._waiting.popleft())

    def _next_step(self) -> tuple[list[Part], list[_Request]]:
        """What the running requests do next, and those of them that then draw a token."""
        decoding = [request for request in self._running if not request.prompt_left]
        parts = [Part(request.sequence, (request.token,)) for request in decoding]
        drawing = list(decoding)
        largest = self._session.prefill_buckets.largest
        space = max(largest - len(decoding), largest // 2, 1)
        if self._prefill_tokens is not None:
            space = min(space, self._prefill_tokens)
        for request in self._running:
            count = min(request.prompt_left, space)
            if count:
                ends = count == request.prompt_left
                parts.append(Part(request.sequence, compute=count, logits=int(ends)))
                drawing += [request] if ends else []
                space -= count
        return parts, drawing

    def _admittable(self) -> bool:
        """Whether the next waiting request has its blocks when nothing else runs."""
        sequence = self._waiting[0].sequence
        needed = self._session.blocks_needed(sequence, len(sequence))
        return needed <= self._session.cache.allocator.available

    def _starved(self) -> CapacityError:
        allocator = self._session.cache.allocator
        return CapacityError(
            "no request can go on: the KV cache is held by other sequences of the session",
            found=f"{allocator.available} free of {allocator.usable} blocks",
            remedy="release the sequences that you made yourself, or load with more kv_blocks",
        )

    def _make_room(self) -> bool:
        """Put the youngest requests back until the others have the blocks for their next token.

        Says whether any request is left. One request alone always fits: ``add`` saw to that.
        """
        session = self._session
        while self._running:
            needed = sum(
                session.blocks_needed(request.sequence, request.next_length)
                for request in self._running
            )
            if needed <= session.cache.allocator.available:
                return True
            youngest = max(self._running, key=lambda request: request.number)
            self._running.remove(youngest)
            if not youngest.prompt_left:
                # Its drawn token is not cached yet, so it becomes the end of the new prompt.
                youngest.sequence.tokens.append(youngest.token)
            session.release(youngest.sequence)
            self._waiting.appendleft(youngest)
            session.statistics.preempted += 1
        return False

    def _may_run_ahead(self) -> bool:
        return (
            self._session.greedy
            and not self._waiting
            and all(item.sampler.greedy and not item.prompt_left for item in self._running)
        )

    def _run_ahead(self) -> Iterator[Event]:
        """Decode until no step is ahead: one of the requests ended, or blocks are short."""
        session, batch = self._session, list(self._running)
        sequences = [request.sequence for request in batch]
        with session.greedy_steps(sequences, [request.token for request in batch]) as steps:
            while True:
                ends = any([self._ends_next(request) for request in batch])
                yield from self._take(batch, steps.step(ahead=not ends))
                for request in set(batch).difference(self._running):
                    steps.leave(request.sequence)
                batch = list(self._running)
                if not batch or not steps.ahead:
                    return

    def _ends_next(self, request: _Request) -> bool:
        """Whether the next token is a request's last, whatever it is."""
        if request.new_tokens + 1 >= self._stop.length:
            return True
        return len(request.sequence) + 1 >= self._session.max_context

    def _draw(self, parts: list[Part], drawing: list[_Request]) -> list[int]:
        """Run a step and choose the next token of each request that draws one."""
        samplers = [request.sampler for request in drawing]
        if self._session.greedy and all([sampler.greedy for sampler in samplers]):
            return self._session.step_greedy(parts)
        return next_tokens(samplers, self._session.step(parts))

    def _take(self, batch: list[_Request], drawn: list[int]) -> Iterator[Event]:
        """Note each request's next token; those that finish leave before their event is seen."""
        for request, token in zip(batch, drawn, strict=True):
            request.token = token
            request.new_tokens += 1
            reason = self._finish_reason(request)
            text = request.text.feed(token)
            if reason is not None:
                self._running.remove(request)
                self._session.release(request.sequence)
                self._session.statistics.finished[reason] += 1
                text += request.text.finish()
            yield Event(request.number, token, text, reason)

    def _finish_reason(self, request: _Request) -> str | None:
        if request.token in self._stop.token_ids:
            return "stop"
        if request.new_tokens >= self._stop.length:
            return "length"
        if len(request.sequence) >= self._session.max_context:
            return "context"
        return None
