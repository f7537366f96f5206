"""Words of a command line that stand for several: ``type=`` of an argument of argparse.

Each raises ArgumentTypeError or ValueError for what it does not know, which argparse says.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable


def names_of(text: str) -> list[str]:
    """What stands between commas, in its order."""
    found = text.split(",")
    if not all(found):
        raise argparse.ArgumentTypeError(f"a word is empty in '{text}'")
    return found


def numbers(text: str) -> tuple[int, ...]:
    """Numbers between commas, in their order."""
    return tuple(map(int, names_of(text)))


def numbers_or_none(text: str) -> tuple[int, ...]:
    """The same, and none in an empty text."""
    return numbers(text) if text else ()


def sizes(text: str) -> tuple[int, ...]:
    """Numbers between commas, each once and the smallest first."""
    return tuple(sorted(set(numbers(text))))


def some_of(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Words between commas that are all among ``known``."""

    def parse(text: str) -> list[str]:
        found = names_of(text)
        for word in found:
            if word not in known:
                raise argparse.ArgumentTypeError(f"'{word}' is none of {', '.join(known)}")
        return found

    return parse
