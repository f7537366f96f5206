"""Texts that end an answer, found as it is written, over the borders of tokens.

An answer ends where the first of its stop strings is complete, whatever tokens that came in. Text
that may become one is held back until it is one or can't be one any more. A special token, which
the text of an answer leaves out, counts here as it is spelled, so it can stop an answer too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """The spelling of each special token of a tokenizer."""
    added = tokenizer.get_added_tokens_decoder()
    return {int(number): str(token.content) for number, token in added.items() if token.special}


class StopStrings:
    """Looks for ``strings`` in the text of one answer; with ``included`` they stay in it."""

    def __init__(
        self,
        strings: tuple[str, ...],
        special: Mapping[int, str],
        included: bool = False,
    ) -> None:
        self.found: str | None = None
        self._strings = strings
        self._special = special
        self._included = included
        self._held: list[tuple[str, bool]] = []  # characters, and whether each is text

    def feed(self, token: int, text: str) -> str:
        """What can be given out once ``token`` has made ``text`` readable; ``found`` is set where
        that ends the answer."""
        self._held += [(character, True) for character in text]
        self._held += [(character, False) for character in self._special.get(token, "")]
        return self._look()

    def finish(self, text: str) -> str:
        """All that was held back, with the ``text`` of an end that is no stop string."""
        self._held += [(character, True) for character in text]
        return self._look() + (self._give(len(self._held)) if self.found is None else "")

    def _look(self) -> str:
        pending = "".join([character for character, _ in self._held])
        places = [(pending.find(string), string) for string in self._strings]
        hits = [(start + len(string), start, string) for start, string in places if start >= 0]
        if not hits:
            return self._give(len(pending) - self._possible(pending))
        end, start, self.found = min(hits)
        text = self._give(end if self._included else start)
        self._held = []
        return text

    def _possible(self, pending: str) -> int:
        """Characters at the end that may become a stop string."""
        longest = min(max(map(len, self._strings)) - 1, len(pending))
        for length in range(longest, 0, -1):
            tail = pending[-length:]
            if any(string.startswith(tail) for string in self._strings):
                return length
        return 0

    def _give(self, number: int) -> str:
        characters, self._held = self._held[:number], self._held[number:]
        return "".join([character for character, is_text in characters if is_text])
