"""A release from the package index: pip downloads it, and only its Python sources are kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from glmc_engines.surface.release import Release
from glmc_runtime.errors import FileError

_BACKEND = Path(__file__).with_name("metadata_backend.py")
_LIMIT = 900.0  # seconds


def fetched(name: str, version: str, cache: Path) -> Release:
    """The release in the cache, downloaded if it is not there: a source distribution, which is
    small, or else a wheel."""
    folder = cache / f"{name}-{version}"
    if not (folder / name).is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}-") as temporary:
            archive = _download(name, version, Path(temporary))
            unpacked = Path(temporary) / "unpacked"
            unpack(archive, name, unpacked)
            archive.unlink()
            if folder.exists():
                shutil.rmtree(folder)
            unpacked.rename(folder)
    return Release(name, version, folder)


def unpack(archive: Path, name: str, folder: Path) -> None:
    """The sources of the package ``name`` in an archive, as ``folder/name/...``."""
    files = list(_sources(archive, name))
    # A source distribution has it below its own folder, and may have others in tests.
    depth = min((path.parts.index(name) for path, _ in files), default=0)
    kept = [(path, data) for path, data in files if path.parts.index(name) == depth]
    if not kept:
        raise FileError(
            f"the archive holds no package '{name}'",
            place=archive.name,
            remedy="unpack it, and name the folder: NAME@FOLDER",
        )
    for path, data in kept:
        target = folder.joinpath(*path.parts[depth:])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _sources(archive: Path, name: str) -> Iterator[tuple[PurePosixPath, bytes]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.namelist():
                if _is_source(entry, name):
                    yield PurePosixPath(entry), wheel.read(entry)
    else:
        with tarfile.open(archive) as source:
            for member in source:
                data = source.extractfile(member) if member.isfile() else None
                if data is not None and _is_source(member.name, name):
                    yield PurePosixPath(member.name), data.read()


def _is_source(entry: str, name: str) -> bool:
    path = PurePosixPath(entry)
    inside = not path.is_absolute() and ".." not in path.parts
    return inside and path.suffix == ".py" and name in path.parts[:-1]


def _download(name: str, version: str, folder: Path) -> Path:
    backends, archives = folder / "backends", folder / "archives"
    (backends / "setuptools").mkdir(parents=True)
    archives.mkdir()
    # Without it, the installed setuptools would come first.
    (backends / "setuptools" / "__init__.py").touch()
    shutil.copy(_BACKEND, backends / "setuptools" / "build_meta.py")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(archives)]
    source = [*pip, "--no-binary", name, "--no-build-isolation", f"{name}=={version}"]
    wheel = [*pip, "--only-binary", ":all:", f"{name}=={version}"]
    said = ""
    for command in (source, wheel):
        said = _run(command, backends) or said
        for archive in archives.iterdir():
            return archive
    raise FileError(
        f"{name} {version} could not be downloaded",
        found=said,
        remedy="see that the index has this version, or name a folder: NAME@FOLDER",
    )


def _run(command: list[str], backends: Path) -> str:
    """The last line of what pip complained of."""
    environment = {**os.environ, "PYTHONPATH": str(backends)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_LIMIT:.0f} s"
    lines = done.stderr.strip().splitlines()
    return lines[-1] if done.returncode and lines else ""
