"""Words of a command line that stand for several: ``type=`` of an argument of argparse.

Each raises ValueError or ArgumentTypeError for what it does not know, which argparse says.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable


def names(text: str) -> list[str]:
    """What stands between commas, in its order."""
    return [word for word in text.split(",") if word]


def numbers(text: str) -> tuple[int, ...]:
    """Numbers between commas, in their order."""
    return tuple(map(int, names(text)))


def sizes(text: str) -> tuple[int, ...]:
    """Numbers between commas, each once and the smallest first."""
    return tuple(sorted(set(numbers(text))))


def some_of(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Words between commas that are all among ``known``."""

    def parse(text: str) -> list[str]:
        for word in text.split(","):
            if word not in known:
                raise argparse.ArgumentTypeError(f"'{word}' is none of {', '.join(known)}")
        return text.split(",")

    return parse
