"""The current workspace owner: kernels that need a workspace keep one for each owner.

An owner runs its calls one after the other: a session or a traced program, by its arena.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class _Nobody:
    """The owner of calls that were bound outside a plan."""


_NOBODY = _Nobody()
_OWNER: ContextVar[object] = ContextVar("owner", default=_NOBODY)


def owner() -> object:
    """Of the call that is bound now."""
    return _OWNER.get()


@contextmanager
def owned_by(of: object) -> Iterator[None]:
    """Calls that are bound inside are of the owner ``of``."""
    token = _OWNER.set(of)
    try:
        yield
    finally:
        _OWNER.reset(token)
