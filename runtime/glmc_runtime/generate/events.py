"""Events of generation: one for each token, or a completion with all of them."""

from __future__ import annotations

from dataclasses import dataclass

from glmc_runtime.engine.sampling.logprobs import TokenLogprobs


@dataclass(frozen=True)
class Event:
    """One new token of request number ``request``, in its completion number ``choice`` of ``n``.

    ``text`` is what became readable with it (empty without a tokenizer and inside a character;
    what may become a stop string is held back until it is none). ``finish_reason`` is None, or on
    the last token ``stop``, ``length`` or ``context``; ``stop_reason`` is the stop string or the
    token id that ended it. ``logprobs`` are there where the request asks for them.
    """

    request: int
    token: int
    text: str
    finish_reason: str | None
    choice: int = 0
    stop_reason: str | int | None = None
    logprobs: TokenLogprobs | None = None


@dataclass
class Completion:
    """All of one answer: its new tokens (an eos id and those of a stop string included), their
    text (a stop string left out), why it ended, and log probabilities where they were asked for."""

    tokens: list[int]
    text: str
    finish_reason: str
    stop_reason: str | int | None = None
    logprobs: list[TokenLogprobs] | None = None

    def take(self, event: Event) -> None:
        self.tokens.append(event.token)
        self.text += event.text
        self.finish_reason = event.finish_reason or self.finish_reason
        if event.finish_reason is not None:
            self.stop_reason = event.stop_reason
        if event.logprobs is not None:
            self.logprobs = self.logprobs or []
            self.logprobs.append(event.logprobs)
