"""Memory that runs out while compiling: an error with a code of its own and the stage."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from glmc.errors import OutOfMemoryError
from glmc_runtime.command import out_of_memory


def memory_errors(stage: Callable[[], str]) -> AbstractContextManager[None]:
    """Raise :class:`OutOfMemoryError`, with the stage, for memory that runs out in the block."""
    return out_of_memory.memory_errors(stage, OutOfMemoryError, OutOfMemoryError.usual_remedy)
