"""``--pipeline FILE.yaml``: which passes run, in which order, and which are left out.

::

    passes: [canonical, clean, rms_norm, ...]   # in order; without it, glmc's own order
    off: [silu_mul]                             # of glmc's own, these do not run

The text is parsed by yaml's safe loader into nodes, of which only strings are read: so a place in
the file can be named, and ``off`` is the word and not YAML's boolean.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from glmc.errors import UsageError

KEYS = ("passes", "off")
_FORM = "a mapping with 'passes' and 'off', each a list of names of passes"
_LARGEST = 1 << 20
_PLAIN = "tag:yaml.org,2002:"  # of YAML's own kinds; others would name a Python type


@dataclass(frozen=True)
class Named:
    """A name in the file and where it stands."""

    name: str
    place: str


@dataclass(frozen=True)
class PipelineFile:
    """``passes`` is None where the file doesn't list any."""

    path: str
    passes: tuple[Named, ...] | None
    off: tuple[Named, ...]


def read_pipeline(path: str) -> PipelineFile:
    """Read the file; names are not looked up. Raises UsageError for any other form."""
    lists: dict[str, tuple[Named, ...]] = {}
    root = _parse(path)
    if not isinstance(root, yaml.MappingNode) or root.tag != f"{_PLAIN}map":
        raise _wrong(path, root, "the file is no mapping", _FORM)
    for key, value in root.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else ""
        if name not in KEYS:
            raise _wrong(path, key, f"there is no key '{name}'", " or ".join(KEYS))
        if name in lists:
            raise _wrong(path, key, f"the key '{name}' stands twice", "each key once")
        lists[name] = _names(path, name, value)
    return PipelineFile(path, lists.get("passes"), lists.get("off", ()))


def _parse(path: str) -> Any:
    """The root node of the document; None for an empty file."""
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise _refused(path, f"the file is larger than {_LARGEST} bytes", "a list of passes")
        return yaml.compose(data.decode("utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise _refused(path, f"the file can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise _refused(path, "the file is no UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}" if mark is not None else path
        raise _refused(place, f"the file is no YAML: {error.problem or error}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _refused(path, f"the file is no YAML: {' '.join(str(error).split())}") from error


def _names(path: str, key: str, node: Any) -> tuple[Named, ...]:
    if not isinstance(node, yaml.SequenceNode) or node.tag != f"{_PLAIN}seq":
        raise _wrong(path, node, f"'{key}' is no list", f"{key}: [name, name]")
    names: list[Named] = []
    for item in node.value:
        text = isinstance(item, yaml.ScalarNode) and item.tag == f"{_PLAIN}str"
        if not text:
            raise _wrong(path, item, f"an entry of '{key}' is no name", "the name of a pass")
        if any(item.value == other.name for other in names):
            raise _wrong(path, item, f"'{item.value}' stands twice in '{key}'", "each pass once")
        names.append(Named(item.value, f"{path}:{item.start_mark.line + 1}"))
    return tuple(names)


def _wrong(path: str, node: Any, message: str, expected: str) -> UsageError:
    if node is None:
        return _refused(path, message, expected, "an empty file")
    value = node.value if isinstance(node, yaml.ScalarNode) else f"a {node.id}"
    return _refused(f"{path}:{node.start_mark.line + 1}", message, expected, value)


def _refused(place: str, message: str, expected: str = _FORM, found: str = "") -> UsageError:
    return UsageError(
        message, place=place, expected=expected, found=found, remedy="correct the --pipeline file"
    )
