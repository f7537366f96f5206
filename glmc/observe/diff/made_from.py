"""What differs in what two compiles were made from: model, files, versions, options."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from glmc.artifact.inputs import InputFile
from glmc.observe.diff.record import Change
from glmc.observe.diff.sides import Side
from glmc.observe.history.ids import layers_of

MODEL, FILE, VERSION, OPTION = "model", "file", "version", "option"
_SHOWN = 12  # digits of a hash


def input_changes(a: Side, b: Side) -> Iterator[Change]:
    """Each fact that differs; options and files only where both sides have them recorded."""
    yield from _model(a, b)
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


def remarks(sides: Iterable[Side]) -> Iterator[str]:
    """What could not be compared."""
    for side in sides:
        if side.inputs is None:
            yield f"{side.facts.label} has no record of its options and files"


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
