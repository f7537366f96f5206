"""Bad words that are texts, as token ids."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as ListLike


def spellings(encode: Callable[[str], list[int]], word: str) -> list[list[int]]:
    """The token ids of a word at the beginning of a text and after a space, where they differ.
    ``encode`` adds no special tokens."""
    all_ids: list[list[int]] = []
    for text in (word, f" {word.lstrip()}"):
        ids = encode(text)
        if ids and ids not in all_ids:
            all_ids.append(ids)
    return all_ids


def spelled(
    words: ListLike[str | tuple[int, ...]], spell: Callable[[str], list[list[int]]]
) -> list[list[int]]:
    """All words as lists of token ids."""
    ids: list[list[int]] = []
    for word in words:
        ids += spell(word) if isinstance(word, str) else [list(word)]
    return ids
