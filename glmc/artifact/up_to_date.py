"""Whether an artifact is what a compile would make now; nothing is imported that computes."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from glmc.artifact.inputs import NAME, differences, inputs_from_json, read_inputs
from glmc.artifact.times import read_times
from glmc.config import CompileOptions
from glmc_runtime.errors import GlmcError
from glmc_runtime.format.json_file import json_of
from glmc_runtime.loading.loader import listed_files

_NAMED = 3


def reason_to_compile(
    path: Path, directory: Path | None, name: str, options: CompileOptions
) -> str | None:
    """Why ``path`` has to be compiled of the checkpoint in ``directory``, or of the preset
    ``name``, in words; None where it is up to date.

    Names and sizes of its files are compared, and the hash of its inputs: a file whose bytes were
    changed in place is found when it is loaded.
    """
    if not path.exists():
        return "there is no artifact yet"
    try:
        _, files = listed_files(path)
        if NAME not in files:
            return f"it has no {NAME}"
        data = json_of(files.read(NAME, compare=True), NAME, str(path / NAME))
        before, times = inputs_from_json(data, str(path)), read_times(path)
        now = read_inputs(directory, name, options)
    except GlmcError as error:
        return error.message
    if before.extensions or now.inputs.extensions:
        return "changes of another distribution's pass or target are not noticed"
    differing = list(differences(before, now.inputs))
    if not differing:
        modified = {} if times is None else times.modified
        differing = [name for name, time in now.modified.items() if modified.get(name) != time]
    if not differing:
        return None
    more = len(differing) - _NAMED
    rest = f" and {more} more" if more > 0 else ""
    return f"changed since: {', '.join(islice(differing, _NAMED))}{rest}"
