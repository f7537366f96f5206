"""Text as tokens come: whole characters only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# What a tokenizer writes for bytes that are not (yet) a character.
_REPLACEMENT = "\ufffd"
# Blanks that a tokenizer of words puts before marks, in the order in which they are taken out.
_SPACED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
# Of what these rules read and leave, no three characters in a row are outside this set and in one.
_BETWEEN = frozenset(" .?!,'")
_RUN = 3


def cleaned(text: str) -> str:
    """Text without the blanks that ``clean_up_tokenization_spaces`` takes out."""
    for spaced in _SPACED:
        text = text.replace(spaced, "'" if spaced == " ' " else spaced[1:])
    return text


class TextStream:
    """Turns tokens into text as they come; holds back what is not a whole character yet.

    Only a short tail is decoded again: from the token before the last text that was given out,
    because a tokenizer may treat the first token of a text in its own way. ``decode`` is None
    without a tokenizer: all texts are empty then. ``clean`` takes out blanks before marks;
    then what a rule could still read is held back too.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str] | None, *, clean: bool = False
    ) -> None:
        self._decode = decode
        self._clean = clean
        self._held = ""
        self._tokens: list[int] = []
        self._start = 0
        self._given = 0

    def feed(self, token: int) -> str:
        """The text that became complete with ``token``; may be empty."""
        if self._decode is None:
            return ""
        self._tokens.append(token)
        new = self._pending()
        return "" if not new or new.endswith(_REPLACEMENT) else self._settled(self._give(new))

    def finish(self) -> str:
        """What was held back, as it is."""
        new = "" if self._decode is None else self._give(self._pending())
        rest, self._held = self._held + new, ""
        return cleaned(rest) if self._clean else rest

    def _pending(self) -> str:
        if self._decode is None:
            return ""
        before = self._decode(self._tokens[self._start : self._given])
        return self._decode(self._tokens[self._start :])[len(before) :]

    def _give(self, new: str) -> str:
        self._start, self._given = self._given, len(self._tokens)
        return new

    def _settled(self, new: str) -> str:
        """All that no rule can still change: up to the end of the last run of letters that is
        longer than what a rule reads after its blank."""
        if not self._clean:
            return new
        text = self._held + new
        for end in range(len(text), _RUN - 1, -1):
            if _BETWEEN.isdisjoint(text[end - _RUN : end]):
                self._held = text[end:]
                return cleaned(text[:end])
        self._held = text
        return ""
