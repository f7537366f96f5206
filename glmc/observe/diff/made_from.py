"""What differs in what two compiles were made from: model, files, versions, options."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from glmc.artifact.inputs import InputFile
from glmc.observe.diff.record import Change
from glmc.observe.diff.sides import TEXT, WEIGHTS, Side
from glmc.observe.history.ids import layers_of

MODEL, FILE, VERSION, OPTION = "model", "file", "version", "option"
_SHOWN = 12  # digits of a hash


def input_changes(a: Side, b: Side) -> Iterator[Change]:
    """Each fact that differs; options and files only where both sides have them recorded."""
    yield from _model(a, b)
    yield from _packed(a, b)
    if a.inputs is None or b.inputs is None:
        yield from _changes(VERSION, a.history.versions, b.history.versions)
        return
    yield from _changes(VERSION, a.inputs.versions, b.inputs.versions)
    yield from _changes(VERSION, a.inputs.extensions, b.inputs.extensions)
    sources = [{"sources of glmc": side.sources[:_SHOWN]} for side in (a.inputs, b.inputs)]
    yield from _changes(VERSION, *sources)
    yield from _changes(FILE, *(_files(side.files) for side in (a.inputs, b.inputs)))
    options = [
        {name: json.dumps(value) for name, value in side.options.items() if name != "target"}
        for side in (a.inputs, b.inputs)
    ]
    yield from _changes(OPTION, *options)
    pipelines = [
        {"content of the pipeline file": side.pipeline[:_SHOWN]} if side.pipeline else {}
        for side in (a.inputs, b.inputs)
    ]
    yield from _changes(OPTION, *pipelines)


def remarks(a: Side, b: Side) -> Iterator[str]:
    """What could not be compared."""
    for side in (a, b):
        yield from side.remarks
        if side.inputs is None:
            yield f"{side.facts.label} has no record of its options and files"
    yield from _unread(a, b)


def _model(a: Side, b: Side) -> Iterator[Change]:
    facts = [
        {
            "name": side.history.model,
            "target": side.history.target,
            "layers": str(layers_of(side.history)),
        }
        for side in (a, b)
    ]
    yield from _changes(MODEL, *facts)


def _packed(a: Side, b: Side) -> Iterator[Change]:
    """Files of weights and of text of two artifacts; of weights where both have some."""
    if a.packed is None or b.packed is None:
        return
    folders = (WEIGHTS, TEXT) if _has_weights(a) and _has_weights(b) else (TEXT,)
    sides = [
        {
            name: f"{entry.size} bytes, sha256 {entry.sha256[:_SHOWN]}"
            for name, entry in packed.items()
            if name.startswith(folders)
        }
        for packed in (a.packed, b.packed)
    ]
    yield from _changes(FILE, *sides)


def _has_weights(side: Side) -> bool:
    return any(name.startswith(WEIGHTS) for name in side.packed or ())


def _unread(a: Side, b: Side) -> Iterator[str]:
    """Files of the checkpoint of which nobody has hashed more than the header, where no packed
    weights say whether they are the same."""
    if a.inputs is None or b.inputs is None or (_has_weights(a) and _has_weights(b)):
        return
    files = a.inputs.files
    names = [name for name, file in files.items() if not file.whole and name in b.inputs.files]
    if names:
        yield f"the values of {_counted(names)} were not compared, only header and size"


def _counted(names: Sequence[str]) -> str:
    """The first of the names and the number of the others."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _files(files: Mapping[str, InputFile]) -> dict[str, str]:
    return {
        name: f"{file.size} bytes, sha256{'' if file.whole else ' of the header'} "
        f"{file.sha256[:_SHOWN]}"
        for name, file in files.items()
    }


def _changes(group: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    for name in dict.fromkeys((*a, *b)):
        if a.get(name) != b.get(name):
            yield Change(group, name, a.get(name), b.get(name))
