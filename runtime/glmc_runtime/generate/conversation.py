"""A conversation: its messages, and a sequence that keeps what is cached from answer to answer.

Each turn renders the chat template over all messages. As far as the tokens are those of the last
turn, answer included, nothing is computed again: a template that only appends costs the new message
alone, one that rewrites earlier turns (as some leave out what the model thought) costs what follows
the first difference.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glmc_runtime.engine.sequences import Sequence
from glmc_runtime.generate.chat_flags import Chat

if TYPE_CHECKING:
    from glmc_runtime.generate.session import Session
    from glmc_runtime.generate.stream import EventStream


class Conversation:
    """``messages`` are those so far. ``prompt_tokens`` and ``reused`` count the tokens of the last
    prompt and those of them that were cached."""

    def __init__(self, session: Session, chat: Chat, settings: dict[str, Any]) -> None:
        self.session = session
        self._chat = chat
        self._settings = settings
        self._sequence = Sequence([])
        self.prompt_tokens = self.reused = 0
        self.messages = self._chat.opening
        self._asked = self.messages

    @property
    def begun(self) -> bool:
        """Whether anything was said but the system message."""
        return len(self.messages) > len(self._chat.opening)

    def ask(self, text: str) -> EventStream:
        """The answer to a message, as it comes; neither is of the conversation before :meth:`take`.
        Raises RequestError, with nothing changed, for one that no longer fits the context."""
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = self._chat.encode(self.session.text, messages)
        self.session.sequence(ids)  # refused here, before anything is forgotten
        same = common_length(self._sequence.tokens, ids[:-1])
        self.session.truncate(self._sequence, same)
        self.prompt_tokens, self.reused = len(ids), self._sequence.cached
        stream = self.session.resume(self._sequence, ids[same:], **self._bounded(len(ids)))
        self._asked = messages
        return stream

    def _bounded(self, prompt: int) -> dict[str, Any]:
        """The settings, with all that context and cache hold where no length was asked for."""
        options = self._settings["options"]
        if options.max_new_tokens is not None:
            return self._settings
        cache = self.session.cache
        holds = cache.allocator.usable * self.session.manifest.cache.block_size
        length = min(holds, self.session.max_context) - prompt + 1
        return {**self._settings, "options": replace(options, max_new_tokens=max(1, length))}

    def take(self, answer: str) -> None:
        """Note what was asked and answered; without an answer the question is forgotten as well."""
        if answer:
            self.messages = [*self._asked, {"role": "assistant", "content": answer}]

    def reset(self) -> None:
        """Forget all but the system message, and give the blocks back."""
        self.session.truncate(self._sequence, 0)
        self.messages = self._chat.opening


def common_length(first: list[int], second: list[int]) -> int:
    """The number of tokens with which both begin."""
    for place, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return place
    return min(len(first), len(second))
