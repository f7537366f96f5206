"""The current group of ranks: what the collectives of a plan are bound to.

A session of several ranks binds its calls inside :func:`in_group`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from glmc_runtime.collectives.group import Group
from glmc_runtime.errors import PlanError

_GROUP: ContextVar[Group | None] = ContextVar("group", default=None)


def current_group() -> Group:
    """Of the session whose call is bound now; raises :class:`PlanError` where it has none."""
    group = _GROUP.get()
    if group is None:
        raise PlanError(
            "a plan of several ranks is bound in a session of one",
            expected="a group of ranks: the call is a collective",
            found="no group",
            remedy="load the artifact by glmc_runtime.load, which starts its ranks",
        )
    return group


@contextmanager
def in_group(group: Group | None) -> Iterator[None]:
    """Calls that are bound inside are of ``group``."""
    token = _GROUP.set(group)
    try:
        yield
    finally:
        _GROUP.reset(token)
