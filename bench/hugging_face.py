"""The cache of a Hugging Face model, as the installed transformers names it."""

from __future__ import annotations

from typing import Any

import transformers

# transformers 5.24 renames the argument and the output; the old names warn until 5.40.
_RENAMED = (5, 24)
_VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
CACHE = "cache" if _VERSION >= _RENAMED else "past_key_values"


def with_cache(cache: Any) -> dict[str, Any]:
    """The keywords of a forward that reads and extends ``cache``."""
    return {CACHE: cache, "use_cache": True}


def cache_of(output: Any) -> Any:
    """The cache that a forward gives back."""
    return getattr(output, CACHE)
