"""Thunks that follow each other and can run as one.

A library whose calls can be handed over together has thunks of a class of its own, which says how;
whoever runs thunks in a row needs to know no library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from glmc_runtime.kernels import Thunk


class Merged(ABC):
    """Several thunks as one: runs them one after the other, up to the first that fails."""

    __slots__ = ()

    @abstractmethod
    def __call__(self) -> None:
        """Raises what the thunk that fails would raise by itself."""

    @property
    @abstractmethod
    def failed(self) -> Thunk | None:
        """The thunk at which the last run ended; None where none of them failed."""


class Mergeable(ABC):
    """A thunk that can become one with neighbours of its class."""

    __slots__ = ()

    @abstractmethod
    def __call__(self) -> None: ...

    @classmethod
    @abstractmethod
    def merge(cls, thunks: tuple[Any, ...]) -> Merged:
        """``thunks``, all of this class, as one that does the same."""


def merged(thunks: Iterable[Thunk]) -> tuple[Thunk, ...]:
    """The same in the same order, neighbours of one mergeable class as one thunk."""
    found: list[Thunk] = []
    for kind, neighbours in groupby(thunks, type):
        members = tuple(neighbours)
        if len(members) > 1 and issubclass(kind, Mergeable):
            found.append(kind.merge(members))
        else:
            found += members
    return tuple(found)


def failed_member(thunk: Thunk | None) -> Thunk | None:
    """What failed in a thunk that raised: one of its members where it is merged, else itself."""
    found = thunk.failed if isinstance(thunk, Merged) else None
    return thunk if found is None else found
