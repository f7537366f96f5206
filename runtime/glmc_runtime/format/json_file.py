"""JSON of an artifact: text that everything after it can take."""

from __future__ import annotations

import json
import re
from typing import Any

from glmc_runtime.errors import ArtifactError

# The escape of half a character: rare, so that only a file that has one is looked at again.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def json_of(data: bytes, name: str, place: str) -> Any:
    """What a file holds; raises :class:`ArtifactError`, also for text with half a character, which
    can be neither printed nor written."""
    try:
        value = json.loads(data.decode("utf-8"))
        if _HALF.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # also numbers of too many digits
        raise ArtifactError(
            f"{name} is not valid JSON: {error}",
            place=place,
            remedy="the file is damaged: copy the artifact again or compile again",
        ) from error
    return value
