"""Garbage collection while modules are imported and a model is compiled: rare, since nearly all
that these make is kept."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_EACH, _OLDER = 50_000, (20, 100)
"""New objects between two collections, and how many of these come before one of an older
generation; Python's own 700, 10 and 10 make each of them look at nodes and fake tensors that all
live on. What is dropped at once needs no collection to be freed."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect seldom in here; a process that collects more seldom still, or never, goes on so."""
    before = gc.get_threshold()
    if before[0] and before[0] < _EACH:
        gc.set_threshold(_EACH, *map(max, _OLDER, before[1:]))
    try:
        yield
    finally:
        gc.set_threshold(*before)
