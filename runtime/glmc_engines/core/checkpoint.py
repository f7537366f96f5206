"""Where the files of a model are that an engine was started with."""

from __future__ import annotations

from pathlib import Path


def directory_of(
    model: str,
    revision: str | None = None,
    download_dir: str | None = None,
    modelscope: bool = False,
) -> Path:
    """The directory of a model: itself, or where a hub's client keeps what it has downloaded of it,
    in ``download_dir`` or where that client does by itself.

    Nothing is downloaded: an engine has read config.json before it makes a model. A name that is
    nowhere comes back as it is.
    """
    place = Path(model)
    if place.is_dir():
        return place
    look_up = _of_modelscope if modelscope else _of_hugging_face
    # An engine may keep weights in the folder that is named and config.json where it always is.
    folders = (download_dir, None) if download_dir else (None,)
    return next((path for each in folders if (path := look_up(model, revision, each))), place)


def _of_hugging_face(model: str, revision: str | None, folder: str | None) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(model, "config.json", cache_dir=folder, revision=revision)
    except ValueError:  # no name that a hub could have, but a path that is not there
        return None
    return Path(found).parent if isinstance(found, str) else None


def _of_modelscope(model: str, revision: str | None, folder: str | None) -> Path | None:
    try:
        from modelscope.hub.snapshot_download import snapshot_download
    except ImportError:
        return None
    try:
        path = Path(snapshot_download(model, revision, cache_dir=folder, local_files_only=True))
    except ValueError:  # it is not there
        return None
    return path if (path / "config.json").is_file() else None
