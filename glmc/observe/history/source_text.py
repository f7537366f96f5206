"""The text of a line of the model, where the file that it names is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import linecache
import re
from collections.abc import Mapping
from pathlib import Path

_SOURCE = re.compile(r"^(?P<file>modeling_(?P<model>\w+)\.py):(?P<line>\d+)\b")


def source_text(source: str, versions: Mapping[str, str]) -> str:
    """The line that ``modeling_glm4_moe.py:305 forward`` names; '' where it can't be known.

    Only files of the transformers that was compiled with are looked into: in another version the
    line is another one.
    """
    match = _SOURCE.match(source)
    spec = importlib.util.find_spec("transformers") if match is not None else None
    if match is None or spec is None or spec.origin is None:
        return ""
    if importlib.metadata.version("transformers") != versions.get("transformers"):
        return ""
    path = Path(spec.origin).parent / "models" / match["model"] / match["file"]
    return linecache.getline(str(path), int(match["line"])).strip()
