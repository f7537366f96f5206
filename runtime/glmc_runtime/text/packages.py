"""Optional packages that text needs."""

from __future__ import annotations

import importlib.util

from glmc_runtime.errors import MissingPackageError


def require(package: str, purpose: str) -> None:
    """Raise :class:`MissingPackageError` where a package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise MissingPackageError(
            f"{purpose} need the package '{package}'",
            remedy="pip install 'glmc-runtime[text]'",
        )
