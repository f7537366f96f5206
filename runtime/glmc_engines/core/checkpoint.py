"""Where the files of a model are that an engine was started with."""

from __future__ import annotations

from pathlib import Path


def directory_of(model: str, revision: str | None = None) -> Path:
    """The directory of a model: itself, or where a hub's client keeps what it has downloaded of it.

    Nothing is downloaded: an engine has read config.json before it makes a model. A name that is
    nowhere comes back as it is.
    """
    place = Path(model)
    if place.is_dir():
        return place
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return place
    try:
        found = try_to_load_from_cache(model, "config.json", revision=revision)
    except ValueError:  # no name that a hub could have, but a path that is not there
        return place
    return Path(found).parent if isinstance(found, str) else place
