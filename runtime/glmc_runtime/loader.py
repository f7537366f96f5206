"""Read an artifact directory: manifest, hashes, plans. Nothing in it is ever executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

from glmc_runtime.errors import ArtifactError, PlanError
from glmc_runtime.manifest import Manifest, manifest_from_json
from glmc_runtime.plan import PhasePlan
from glmc_runtime.plan_json import phase_from_json

MANIFEST = "manifest.json"
_HASH_CHUNK = 1 << 22

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Artifact:
    """A checked artifact. ``plans`` has one entry per phase of the manifest."""

    path: Path
    manifest: Manifest
    plans: dict[str, PhasePlan]

    @property
    def functions(self) -> list[str]:
        """Every kernel that a plan calls, sorted, each once."""
        return sorted({call.function for plan in self.plans.values() for call in plan.calls})


def load_artifact(
    path: str | PathLike[str], *, verify_hashes: bool = True, progress: Progress | None = None
) -> Artifact:
    """Read and check an artifact; raises :class:`ArtifactError` or :class:`PlanError`.

    The set of files and their sizes are always compared with the manifest; ``verify_hashes`` also
    reads every byte, and calls ``progress(bytes read, bytes of all files)`` after each 4 MiB.
    Links are refused, because their target is not covered by the directory.
    """
    root = Path(path)
    try:
        if not root.is_dir():
            raise ArtifactError(
                "there is no such artifact directory",
                place=str(root),
                remedy="pass a directory written by 'glmc compile'",
            )
        manifest = manifest_from_json(_read_json(root, MANIFEST))
        _check_names(manifest)
        _check_files(root, manifest, verify_hashes, progress)
    except OSError as error:  # a path too long, a folder that can't be listed
        raise unreadable(root, error) from error
    plans = {}
    for phase in manifest.phases:
        name = f"plans/{phase}.json"
        if name not in manifest.files:
            raise ArtifactError(f"the manifest lists no plan of phase '{phase}'", expected=name)
        plans[phase] = _read_plan(root, name, phase)
    return Artifact(root, manifest, plans)


def _read_json(root: Path, name: str) -> Any:
    try:
        return json.loads((root / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{name} is missing",
            place=str(root),
            remedy="the compile did not finish or this is no artifact: compile again",
        ) from error
    except OSError as error:
        raise unreadable(root / name, error) from error
    except (ValueError, RecursionError) as error:  # also numbers of too many digits
        raise ArtifactError(
            f"{name} is not valid JSON: {error}",
            place=str(root / name),
            remedy="the file is damaged: copy the artifact again or compile again",
        ) from error


def _read_plan(root: Path, name: str, phase: str) -> PhasePlan:
    data = _read_json(root, name)
    if not isinstance(data, dict):
        raise PlanError("the plan is not well formed", place=name, expected="a JSON object")
    plan = phase_from_json(data)
    if plan.name != phase:
        raise PlanError("the plan is of another phase", place=name, expected=phase, found=plan.name)
    return plan


def _check_names(manifest: Manifest) -> None:
    """Refuse file names that could lead out of the artifact."""
    names = [*manifest.files, *(entry.file for entry in manifest.weights.values())]
    names += [f"plans/{phase}.json" for phase in manifest.phases]
    for name in names:
        pure = PurePosixPath(name)
        plain = pure.as_posix() == name and "\\" not in name and ":" not in name
        if not plain or pure.is_absolute() or ".." in pure.parts or "\0" in name or name == ".":
            raise ArtifactError(
                "the manifest names a file outside the artifact",
                expected="a relative path without '..'",
                found=repr(name),
                remedy="do not use this artifact: it was made or changed by something else",
            )
    for weight, entry in manifest.weights.items():
        if manifest.weights_included and entry.file not in manifest.files:
            raise ArtifactError(f"weight '{weight}' is in an unlisted file", found=entry.file)


def _check_files(
    root: Path, manifest: Manifest, verify_hashes: bool, progress: Progress | None
) -> None:
    present = set()
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            raise ArtifactError("the artifact holds a link", place=name, expected="plain files")
        if path.is_file():
            present.add(name)
    present.discard(MANIFEST)
    missing = sorted(set(manifest.files) - present)
    surplus = sorted(present - set(manifest.files))
    if missing or surplus:
        raise ArtifactError(
            "the files are not those that the manifest lists",
            place=str(root),
            expected=f"{len(manifest.files)} files",
            found="; ".join(
                f"{word}: {', '.join(names[:5])}" + (" ..." if len(names) > 5 else "")
                for word, names in (("missing", missing), ("surplus", surplus))
                if names
            ),
            remedy="copy the artifact again, complete and unchanged",
        )
    for name, entry in sorted(manifest.files.items()):
        size = (root / name).stat().st_size
        if size != entry.size:
            raise ArtifactError(
                "a file has another size than when it was written",
                place=name,
                expected=f"{entry.size} bytes",
                found=f"{size} bytes",
                remedy="copy the artifact again",
            )
    if verify_hashes:
        _check_hashes(root, manifest, progress)


def _check_hashes(root: Path, manifest: Manifest, progress: Progress | None) -> None:
    total = sum(entry.size for entry in manifest.files.values())
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    for name, entry in sorted(manifest.files.items()):
        if sha256_of(root / name, count) != entry.sha256:
            raise ArtifactError(
                "a file was changed after it was written: its sha256 differs",
                place=name,
                expected=entry.sha256,
                remedy="copy the artifact again, or compile again",
            )


def sha256_of(path: Path, read: Callable[[int], object] | None = None) -> str:
    """Hexadecimal sha256 of a file; raises :class:`ArtifactError`.

    The file is read in pieces, and ``read`` is called with the size of each.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while piece := stream.read(_HASH_CHUNK):
                digest.update(piece)
                if read is not None:
                    read(len(piece))
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()


def unreadable(path: Path, error: OSError) -> ArtifactError:
    """The error of a file that the system does not let us read."""
    return ArtifactError(
        f"{path.name} can't be read: {error.strerror or error}",
        place=str(path),
        remedy="check the disk and the file's permissions",
    )
