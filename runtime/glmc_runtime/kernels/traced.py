"""Kernels for traced programs: those of artifacts and those that only such a program has.

A traced program was made in this process from the user's own model. A plan from a file never gets
here, or it could name any op of torch and all that those can load and run.
"""

from __future__ import annotations

from glmc_runtime.kernels import _TRACED, Binder, any_op, find_binder, load_family

__all__ = ["any_op", "find_traced_binder"]


def find_traced_binder(name: str) -> Binder:
    """As :func:`~glmc_runtime.kernels.find_binder`, of every kernel that is registered."""
    load_family(name)
    return _TRACED.get(name) or find_binder(name)
