"""Read an artifact directory: manifest, hashes, plans. Nothing in it is ever executed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath

from glmc_runtime.errors import ArtifactError, PlanError
from glmc_runtime.format.artifact_files import (
    MANIFEST,
    TIMES,
    ArtifactFiles,
    Progress,
    check_size,
    is_unfinished,
    read_manifest,
    require_directory,
    require_plain,
    require_size,
    sha256_of,
    unreadable,
)
from glmc_runtime.format.collectives import COLLECTIVES
from glmc_runtime.format.engine_weights import FROM_ENGINE
from glmc_runtime.format.json_file import json_of
from glmc_runtime.format.manifest import Manifest, manifest_from_json
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.format.plan_json import phase_from_json
from glmc_runtime.format.recipes import RECIPES

__all__ = ["Artifact", "Progress", "listed_files", "load_artifact", "plans_of", "sha256_of"]


# What is read again later: the bytes that were hashed are kept until then.
_KEPT = ("plans/", "tokenizer/", RECIPES, FROM_ENGINE)


@dataclass(frozen=True)
class Artifact:
    """A checked artifact as ``rank`` has it. ``plans`` are those that it runs, by phase; ``files``
    hands out the bytes that were hashed."""

    path: Path
    manifest: Manifest
    plans: dict[PhaseKey, PhasePlan]
    files: ArtifactFiles
    rank: int = 0

    @property
    def functions(self) -> list[str]:
        """Every kernel that a plan calls, sorted, each once."""
        return sorted({call.function for plan in self.plans.values() for call in plan.calls})


def load_artifact(
    path: str | PathLike[str],
    *,
    verify_hashes: bool = True,
    progress: Progress | None = None,
    rank: int | None = 0,
) -> Artifact:
    """Read and check an artifact; raises :class:`ArtifactError` or :class:`PlanError`.

    The set of files and their sizes are always compared with the manifest; ``verify_hashes`` also
    reads every byte but those of the weights of other ranks than ``rank``, and calls
    ``progress(bytes read, bytes of all files)`` after each 4 MiB. What the runtime reads of them
    later, weights aside, are the bytes of that one read. Only ``path`` itself may be a link: what
    is in the directory is plain files and folders, or refused.

    With ``rank`` None no weight of an artifact of several ranks is read: what each of them needs is
    that rank's to check. An artifact of one rank is the same on any.
    """
    root = Path(path)
    manifest, files = listed_files(root)
    count = manifest.ranks.count
    own = 0 if rank is None or count == 1 else rank
    if not 0 <= own < count:
        raise ArtifactError(
            f"the artifact has no rank {own}",
            expected=f"a rank from 0 to {count - 1}",
            found=str(own),
            remedy=f"start {count} processes, or compile with --tensor-parallel for as many as run",
        )
    skipped = manifest.files_of_others(own)
    if rank is None and count > 1:
        skipped |= {entry.files[own] for entry in manifest.weights.values()}
    if verify_hashes:
        files.hash_all(
            lambda name: name.startswith(_KEPT) or name == COLLECTIVES,
            progress,
            skip=skipped,
        )
    return Artifact(root, manifest, _plans(manifest, files, own), files, own)


def plans_of(artifact: Artifact, rank: int) -> dict[PhaseKey, PhasePlan]:
    """The plans that a rank runs, by phase."""
    manifest = artifact.manifest
    if manifest.phases_of(rank) == manifest.phases_of(artifact.rank):
        return artifact.plans
    return _plans(manifest, artifact.files, rank)


def listed_files(root: Path) -> tuple[Manifest, ArtifactFiles]:
    """The manifest and the files that it lists, whose names and sizes were compared with those that
    are there; no plan is read. Raises :class:`ArtifactError`."""
    try:
        require_directory(root)
        manifest = manifest_from_json(json_of(read_manifest(root), MANIFEST, str(root / MANIFEST)))
        _check_finished(root)
        _check_names(manifest)
        _check_files(root, manifest)
    except OSError as error:  # a path too long, a folder that can't be listed
        raise unreadable(root, error) from error
    return manifest, ArtifactFiles(root, manifest.files)


def _check_finished(root: Path) -> None:
    if is_unfinished(root):
        raise ArtifactError(
            "this is what a compile that was ended left behind, or is still writing",
            place=str(root),
            expected="an artifact under the name that it was compiled to",
            remedy="compile again: the next compile to that name removes it",
        )


def _plans(manifest: Manifest, files: ArtifactFiles, rank: int) -> dict[PhaseKey, PhasePlan]:
    plans = {}
    for key, file in ((key, entry.key.file) for key, entry in manifest.phases_of(rank).items()):
        if file not in files:
            raise ArtifactError(f"the manifest lists no plan of phase '{key}'", expected=file)
        plans[key] = _plan(files, file, key.phase)
    return plans


def _plan(files: ArtifactFiles, name: str, phase: str) -> PhasePlan:
    data = json_of(files.take(name), name, str(files.root / name))
    if not isinstance(data, dict):
        raise PlanError("the plan is not well formed", place=name, expected="a JSON object")
    plan = phase_from_json(data)
    if plan.name != phase:
        raise PlanError("the plan is of another phase", place=name, expected=phase, found=plan.name)
    return plan


def _check_names(manifest: Manifest) -> None:
    """Refuse file names that could lead out of the artifact."""
    names = [*manifest.files, *(file for each in manifest.weights.values() for file in each.files)]
    names += [entry.key.file for entry in manifest.phases]
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
        unlisted = [file for file in entry.files if file not in manifest.files]
        if manifest.weights_included and unlisted:
            raise ArtifactError(f"weight '{weight}' is in an unlisted file", found=unlisted[0])


def _check_files(root: Path, manifest: Manifest) -> None:
    present = _plain_files(root)
    present.pop(MANIFEST, None)
    missing = sorted(set(manifest.files) - set(present))
    surplus = sorted(set(present) - set(manifest.files) - {TIMES})
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
    weights = {file for entry in manifest.weights.values() for file in entry.files}
    weights -= {RECIPES, FROM_ENGINE}
    for name, entry in sorted(manifest.files.items()):
        if name not in weights:
            check_size(name, entry.size)
        require_size(name, entry.size, present[name])


def _plain_files(root: Path) -> dict[str, int]:
    """Names and sizes of all files; raises ArtifactError for what is neither file nor folder."""
    found, folders = {}, [""]
    while folders:
        above = folders.pop()
        with os.scandir(root / above) as entries:
            for entry in entries:
                name = f"{above}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{name}/")
                    continue
                status = entry.stat(follow_symlinks=False)
                require_plain(name, status.st_mode)
                found[name] = status.st_size
    return found
