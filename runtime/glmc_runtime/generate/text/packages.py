"""Optional packages that text needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from glmc_runtime.errors import ArtifactError, MissingPackageError, RequestError


def require(package: str, purpose: str) -> None:
    """Raise :class:`MissingPackageError` where a package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise MissingPackageError(
            f"{purpose} need the package '{package}'",
            remedy="pip install 'glmc-runtime[text]'",
        )


def answered(what: str, call: Callable[..., Any], *values: Any, **named: Any) -> Any:
    """What the package tokenizers returns; an error of ours for all that it raises.

    It takes many a file that it can't follow, and says so when it reads a text: by an Exception, or
    by a panic of Rust, which is none. Raises :class:`ArtifactError`, and :class:`RequestError` for
    values that are of no use to any tokenizer.
    """
    try:
        return call(*values, **named)
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except (TypeError, OverflowError) as error:
        raise RequestError(f"a tokenizer can't {what}: {error}") from error
    except BaseException as error:  # a panic derives from it alone
        raise ArtifactError(
            f"tokenizer.json can't {what}: {error}",
            remedy="take the tokenizer files that were published with the checkpoint",
        ) from error
