"""Releases by how a user names them: installed here, in a folder, or to be downloaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from glmc_engines.surface.fetch import fetched
from glmc_engines.surface.release import Release
from glmc_runtime.errors import MissingPackageError, RequestError

_SPEC = re.compile(
    r"(?P<name>[A-Za-z_][\w-]*)(==(?P<version>[\w.!+-]+)|@(?P<place>.+))?", re.DOTALL
)


@dataclass(frozen=True)
class Spec:
    """``NAME``, ``NAME==VERSION`` or ``NAME@PLACE``."""

    name: str
    version: str = ""
    place: str = ""

    @classmethod
    def parse(cls, text: str) -> Spec:
        match = _SPEC.fullmatch(text.strip())
        if match is None:
            raise RequestError(
                f"'{text}' names no release",
                expected="NAME, NAME==VERSION, or NAME@FOLDER",
                remedy="write it as in vllm==0.33.0, or vllm for the one that is installed here",
            )
        return cls(match["name"], match["version"] or "", match["place"] or "")


def release(spec: Spec, cache: Path) -> Release:
    """The release, which is downloaded where it is neither installed here nor in the cache."""
    if spec.place:
        return in_folder(spec.name, Path(spec.place).expanduser())
    here = installed(spec.name)
    if here is not None and spec.version in ("", here.version):
        return here
    if not spec.version:
        raise MissingPackageError(
            f"{spec.name} is not installed here",
            remedy=f"name a version, as in {spec.name}==1.2.3, or a folder: {spec.name}@FOLDER",
        )
    return fetched(spec.name, spec.version, cache)


def installed(name: str) -> Release | None:
    """The release of the environment that runs this, found without importing it."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    folder = Path(str(distribution.locate_file("")))
    return Release(name, distribution.version, folder) if (folder / name).is_dir() else None


def in_folder(name: str, folder: Path) -> Release:
    """What is unpacked in a folder: site-packages, a wheel, a checkout."""
    for place in (folder, folder / "python", folder / "src"):
        if (place / name).is_dir():
            return Release(name, _version(name, place), place)
    raise RequestError(
        f"there is no package '{name}' in the folder",
        place=str(folder),
        expected=f"a folder '{name}' in it",
        remedy="name the folder that holds the package, such as site-packages",
    )


def _version(name: str, folder: Path) -> str:
    for info in folder.glob(f"{name}-*.dist-info"):
        return info.name.removesuffix(".dist-info").partition("-")[2]
    own = folder / name / "_version.py"
    text = own.read_text(encoding="utf-8") if own.is_file() else ""
    match = re.search(r"""\bversion\s*=\s*['"]([^'"]+)""", text)
    return match[1] if match else ""
