"""Generate for many requests: prompts enter as rows and blocks get free, finished ones leave.

The policy: every step decodes one token for each request whose prompt is cached, and beside them
computes prompt tokens of the others, oldest request first. These prompt tokens are at most what the
largest prefill bucket has room for beside the decoded ones (at least half a bucket, then in a
second replay) and never more than ``prefill_tokens``, if given; so this bounds how long a prompt,
however long, holds up the texts that are being written.

Where the plans compute the greedy tokens, no logits are copied for a step that draws only these;
and while all requests are greedy and none has prompt left or waits, the device runs a step ahead
(:mod:`glmc_runtime.engine.async_decode`).

Several answers of one prompt share its blocks: it is computed once, and the others are forks of it
that wait after it, each with the token that it drew from the same logits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from glmc_runtime.engine.sampling import Sampler, next_tokens
from glmc_runtime.engine.sequences import Sequence, SequenceStep
from glmc_runtime.errors import CapacityError
from glmc_runtime.generate.events import Event
from glmc_runtime.generate.options import Settings
from glmc_runtime.generate.stop_strings import StopStrings, special_tokens
from glmc_runtime.generate.text import Text, TextStream
from glmc_runtime.replay.step import blocks_for

if TYPE_CHECKING:
    from glmc_runtime.engine.async_decode import GreedySteps
    from glmc_runtime.engine.engine import Engine


@dataclass(eq=False)
class _Request:
    """One answer to a prompt. ``number`` orders all of them. ``others`` are further answers to the
    same prompt; they begin, with its blocks, when it has been computed. ``keeps`` leaves the
    sequence its blocks at the end."""

    number: int
    prompt: int
    choice: int
    settings: Settings
    sequence: Sequence
    sampler: Sampler
    text: TextStream
    stop: StopStrings | None
    others: list[_Request] = field(default_factory=list)
    keeps: bool = False
    new_tokens: int = 0
    token: int = -1
    forked: bool = False

    @property
    def prompt_left(self) -> int:
        """Tokens to compute before the next one can be drawn, other than the one drawn last."""
        return len(self.sequence) - self.sequence.cached

    @property
    def next_length(self) -> int:
        """Tokens cached when the next one is drawn."""
        return len(self.sequence) + (0 if self.prompt_left else 1)


class Generation:
    """The requests of one ``stream`` call and what is done for them next."""

    def __init__(self, engine: Engine, text: Text, prefill_tokens: int | None = None) -> None:
        self._prefill_tokens = prefill_tokens
        self._engine = engine
        self._text = text
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._steps: GreedySteps | None = None
        # Called where others hold all blocks; says whether some may have come free since.
        self.wait: Callable[[], bool] = lambda: False
        self._count = self._prompts = 0
        # For each prompt whose longest answer does not fit the context: the tokens that do.
        self.fitting: dict[int, int] = {}

    def add(self, sequence: Sequence, settings: Settings, *, keeps: bool = False) -> None:
        """Queue a request, whose sequence may be cached in part; with ``keeps`` its blocks stay its
        own. Raises :class:`CapacityError` when the cache can never hold it."""
        engine, size = self._engine, self._engine.manifest.cache.block_size
        usable = engine.cache.allocator.usable
        if settings.length_of_file:  # it may say 128000, and the cache hold less
            room = max(1, usable * size - len(sequence) + 1)
            settings = replace(settings, max_new_tokens=min(settings.max_new_tokens, room))
        fitting = engine.max_context - len(sequence) + 1
        if settings.max_new_tokens > fitting and not settings.length_of_file:
            self.fitting[self._prompts] = fitting
        longest = min(len(sequence) + settings.max_new_tokens - 1, engine.max_context)
        needed = blocks_for(longest, size)
        if needed > usable:
            raise CapacityError(
                "the request needs more KV blocks than the cache has",
                expected=f"{needed} blocks for {longest} tokens",
                found=f"{usable} blocks in all",
                remedy="shorten the prompt, lower max_new_tokens, or load with more kv_blocks",
            )
        answers = [self._answer(choice, sequence, settings) for choice in range(settings.n)]
        answers[0].others, answers[0].keeps = answers[1:], keeps
        self._waiting.append(answers[0])
        self._prompts += 1

    def _answer(self, choice: int, sequence: Sequence, settings: Settings) -> _Request:
        text = self._text
        self._count += 1
        return _Request(
            self._count,
            self._prompts,
            choice,
            settings,
            sequence,
            Sampler(
                settings.sampling_of(choice), sequence.tokens, settings.ends, settings.logprobs
            ),
            text.stream(),
            StopStrings(settings.stop, special_tokens(text.tokenizer), settings.include_stop)
            if settings.stop
            else None,
        )

    @property
    def answers(self) -> list[tuple[int, int]]:
        """Number of the prompt and of its answer, for each that is to come."""
        return [
            (request.prompt, answer.choice)
            for request in self._waiting
            for answer in (request, *request.others)
        ]

    def turn(self) -> list[Event]:
        """Run steps until one draws tokens; their events, none when all requests have finished."""
        while self._waiting or self._running:
            steps = self._steps
            events = self._step() if steps is None else self._async_step(steps)
            if events:
                return events
        return []

    def close(self) -> None:
        """Give all blocks back; nothing is left to do then."""
        steps, self._steps = self._steps, None
        if steps is not None:
            steps.close()
        for request in (*self._running, *self._waiting):
            self._let_go(request)
        self._running = []
        self._waiting.clear()

    def _step(self) -> list[Event]:
        self._admit()
        if not self._make_room():
            if not self._admittable() and not self.wait():
                raise self._starved()
            return []
        if self._may_decode_async():
            sequences = [request.sequence for request in self._running]
            tokens = [request.token for request in self._running]
            self._steps = self._engine.greedy_steps(sequences, tokens)
            return self._async_step(self._steps)
        parts, drawing = self._next_step()
        return self._draw(parts, drawing)

    def _admit(self) -> None:
        """Let waiting requests in that fit next to the running ones, in their order."""
        engine = self._engine
        # A block for each running request stays free, or the newcomer would be put back at once.
        free = engine.cache.allocator.available - sum(
            max(1, engine.blocks_needed(request.sequence, request.next_length))
            for request in self._running
        )
        while self._waiting and len(self._running) < engine.decode_buckets.largest:
            sequence = self._waiting[0].sequence
            free -= engine.blocks_needed(sequence, len(sequence))
            if free < 0:
                break
            self._running.append(self._waiting.popleft())

    def _next_step(self) -> tuple[list[SequenceStep], list[_Request]]:
        """What the running requests do next, and those of them that then draw a token."""
        decoding = [request for request in self._running if not request.prompt_left]
        parts = [SequenceStep(request.sequence, (request.token,)) for request in decoding]
        drawing = list(decoding)
        largest = self._engine.prefill_buckets.largest
        space = max(largest - len(decoding), largest // 2, 1)
        if self._prefill_tokens is not None:
            space = min(space, self._prefill_tokens)
        for request in self._running:
            count = min(request.prompt_left, space)
            if count:
                ends = count == request.prompt_left
                parts.append(SequenceStep(request.sequence, compute=count, logits=int(ends)))
                drawing += [request] if ends else []
                space -= count
        return parts, drawing

    def _admittable(self) -> bool:
        """Whether the next waiting request has its blocks when nothing else runs."""
        sequence = self._waiting[0].sequence
        while True:
            needed = self._engine.blocks_needed(sequence, len(sequence))
            if needed <= self._engine.cache.allocator.available:
                return True
            if not self._give_up_waiting():
                return False

    def _starved(self) -> CapacityError:
        allocator = self._engine.cache.allocator
        return CapacityError(
            "no request can go on: the KV cache is held by other sequences of the session",
            found=f"{allocator.available} free of {allocator.usable} blocks",
            remedy="release the sequences that you made yourself, or load with more kv_blocks",
        )

    def _make_room(self) -> bool:
        """Put the youngest requests back until the others have the blocks for their next token.

        Says whether any request is left. One request alone always fits: ``add`` saw to that.
        """
        engine = self._engine
        while self._running:
            needed = sum(
                engine.blocks_needed(request.sequence, request.next_length)
                for request in self._running
            )
            if needed <= engine.cache.allocator.available:
                return True
            if self._give_up_waiting():
                continue
            youngest = max(self._running, key=lambda request: request.number)
            self._running.remove(youngest)
            if not youngest.prompt_left:
                # Its drawn token is not cached yet, so it becomes the end of the new prompt.
                youngest.sequence.tokens.append(youngest.token)
            engine.release(youngest.sequence)
            self._waiting.appendleft(youngest)
            engine.statistics.preempted += 1
        return False

    def _give_up_waiting(self) -> bool:
        """Take the blocks of the youngest answer that waits with those of its prompt."""
        holding = [request for request in self._waiting if request.sequence.blocks]
        if not holding:
            return False
        youngest = max(holding, key=lambda request: request.number)
        self._engine.release(youngest.sequence)
        self._engine.statistics.preempted += 1
        return True

    def _may_decode_async(self) -> bool:
        return (
            self._engine.greedy
            and not self._waiting
            and not any(item.sampler.needs_logits or item.prompt_left for item in self._running)
        )

    def _async_step(self, steps: GreedySteps) -> list[Event]:
        """Decode by steps that run ahead, until none is: a request ended, or blocks are short."""
        batch = list(self._running)
        ends = any([self._ends_next(request) for request in batch])
        events = self._take(batch, steps.step(ahead=not ends))
        for request in set(batch).difference(self._running):
            steps.leave(request.sequence)
        if not self._running or not steps.ahead:
            steps.close()
            self._steps = None
        return events

    def _ends_next(self, request: _Request) -> bool:
        """Whether the next token is a request's last, whatever it is."""
        if request.new_tokens + 1 >= request.settings.max_new_tokens:
            return True
        return len(request.sequence) + 1 >= self._engine.max_context

    def _draw(self, parts: list[SequenceStep], drawing: list[_Request]) -> list[Event]:
        """Run a step and choose the next token of each request that draws one."""
        engine = self._engine
        if engine.greedy and not any([request.sampler.needs_logits for request in drawing]):
            return self._take(drawing, engine.step_greedy(parts))
        logits = engine.step(parts)
        rows = [row for row, request in enumerate(drawing) for _ in (request, *request.others)]
        first = [request for request in drawing if request.others]
        drawing = [answer for request in drawing for answer in (request, *request.others)]
        if first:
            logits = logits[rows]
        tokens = next_tokens([request.sampler for request in drawing], logits)
        for request in first:
            self._fork(request)
        return self._take(drawing, tokens)

    def _fork(self, request: _Request) -> None:
        """Let the other answers begin after the prompt that is computed now, with its blocks."""
        for other in request.others:
            other.sequence = self._engine.fork(request.sequence)
            other.forked = True
        self._waiting.extendleft(reversed(request.others))
        request.others = []

    def _take(self, batch: list[_Request], drawn: list[int]) -> list[Event]:
        """Note each request's next token; those that finish leave."""
        return [self._note(request, token) for request, token in zip(batch, drawn, strict=True)]

    def _note(self, request: _Request, token: int) -> Event:
        request.token = token
        request.new_tokens += 1
        reason, why = self._finish_reason(request)
        text = request.text.feed(token)
        stop = request.stop
        if stop is not None:
            text = stop.feed(token, text)
            if reason is not None and stop.found is None:
                text += stop.finish(request.text.finish())
            if stop.found is not None:
                reason, why = "stop", stop.found
        elif reason is not None:
            text += request.text.finish()
        forked, request.forked = request.forked, False
        if reason is not None:
            (self._waiting if forked else self._running).remove(request)
            self._let_go(request)
            self._engine.statistics.finished[reason] += 1
        elif forked:
            request.sequence.tokens.append(token)  # computed when it is let in
        logprobs = request.sampler.logprobs
        return Event(request.prompt, token, text, reason, request.choice, why, logprobs)

    def _let_go(self, request: _Request) -> None:
        if not request.keeps:
            self._engine.release(request.sequence)

    def _finish_reason(self, request: _Request) -> tuple[str | None, str | int | None]:
        if request.token in request.settings.ends:
            return "stop", request.token
        if request.new_tokens >= request.settings.max_new_tokens:
            return "length", None
        if len(request.sequence) >= self._engine.max_context:
            return "context", None
        return None, None
