"""Descriptions of devices as YAML: those of the package by name, others by their path.

A file is a mapping as ``devices/h200.yaml``. Every number is a mapping of ``value``, ``kind``
(measured, third-party or assumed) and ``source``, a sentence on where it comes from.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from glmc.errors import UsageError
from glmc.estimates.costs import KINDS
from glmc.estimates.device import PROVENANCES, Calls, Device, Launch, Library, Link, Links, Number
from glmc.estimates.names import device_names, require_device
from glmc.plain_file import read_plain

_LARGEST = 1 << 20


def read_device(name: str) -> Device:
    """The device of a name or of a file; raises UsageError for one that there is not, and for a
    description that is incomplete or of another form."""
    if name in device_names():
        file = resources.files("glmc.estimates.devices").joinpath(f"{name}.yaml")
        return parse_device(file.read_bytes(), f"{name}.yaml")
    require_device(name)
    try:
        return parse_device(read_plain(Path(name), _LARGEST), name)
    except OSError as error:
        raise UsageError(
            f"the description can't be read: {error.strerror or error}", place=name
        ) from error


def parse_device(data: bytes, place: str) -> Device:
    """Read a description; raises UsageError with the path of what is wrong in it."""
    try:
        content = yaml.safe_load(data.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise UsageError(f"the description is no YAML: {text}", place=place) from error
    root = _Part(place, "", content)
    fields = "name title target cards memory read product launch links overlap calls"
    root.fields(*fields.split())
    launch, links, calls = root.part("launch"), root.part("links"), root.part("calls")
    launch.fields("eager", "graph", "step")
    optional = [name for name in ("memory", "library", "step") if links.has(name)]
    links.fields("topology", "messages", *optional)
    calls.fields(*KINDS)
    product = root.part("product")
    return Device(
        name=root.text("name"),
        title=root.text("title"),
        target=root.text("target"),
        cards=root.count("cards"),
        memory=root.number("memory"),
        read=root.number("read"),
        product={dtype: product.number(dtype) for dtype in product.names()},
        launch=Launch(*(launch.number(name, least=0) for name in ("eager", "graph", "step"))),
        links=Links(
            links.text("topology"),
            _link(links.part("messages")),
            _link(links.part("memory")) if links.has("memory") else None,
            _library(links.part("library")) if links.has("library") else None,
            links.number("step", least=0) if links.has("step") else None,
        ),
        overlap=root.number("overlap", least=1),
        calls={kind: _calls(calls.part(kind)) for kind in KINDS},
    )


def _calls(part: _Part) -> Calls:
    part.fields("seconds", "read", "multiply")
    return Calls(
        part.number("seconds", least=0),
        part.number("read", least=1),
        part.number("multiply", least=1),
    )


def _link(part: _Part) -> Link:
    part.fields("alpha", "beta")
    return Link(part.number("alpha", least=0), part.number("beta"))


def _library(part: _Part) -> Library:
    part.fields("start", "doubling", "beta")
    return Library(
        part.number("start", least=0), part.number("doubling", least=0), part.number("beta")
    )


class _Part:
    """A mapping of the file, with the path that leads to it."""

    def __init__(self, place: str, path: str, data: Any) -> None:
        self._place, self._path, self._data = place, path, data
        if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
            raise self.wrong("", "a mapping", data)

    def wrong(self, name: str, expected: str, found: object) -> UsageError:
        path = f"{self._path}.{name}".strip(".")
        return UsageError(
            "the description of a device is not well formed",
            place=f"{self._place}: {path}" if path else self._place,
            expected=expected,
            found=reprlib.repr(found)[:80],  # aliases of YAML can nest without end
            remedy="see docs/estimate.md for the form of a description",
        )

    def fields(self, *names: str) -> None:
        """Exactly these are there."""
        data: Mapping[str, Any] = self._data
        for name in (*names, *data):
            if (name in names) != (name in data):
                if name in data:
                    raise self.wrong(name, f"only {', '.join(names)}", "another field")
                raise self.wrong(name, f"the fields {', '.join(names)}", "none of this name")

    def names(self) -> tuple[str, ...]:
        return tuple(self._data)

    def has(self, name: str) -> bool:
        return name in self._data

    def part(self, name: str) -> _Part:
        return _Part(self._place, f"{self._path}.{name}".strip("."), self._data[name])

    def text(self, name: str) -> str:
        value = self._data[name]
        if not isinstance(value, str) or not value:
            raise self.wrong(name, "a text", value)
        return value

    def count(self, name: str) -> int:
        value = self._data[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.wrong(name, "an integer from 1 on", value)
        return value

    def number(self, name: str, least: float | None = None) -> Number:
        """A number with its source: above 0, or at least ``least``."""
        part = self.part(name)
        part.fields("value", "kind", "source")
        value, kind = part._data["value"], part.text("kind")
        if not _is_finite(value):
            raise part.wrong(
                "value", "a number (YAML wants 1.0e+12, with a point and a sign)", value
            )
        if value < least if least is not None else value <= 0:
            raise part.wrong("value", "above 0" if least is None else f"at least {least}", value)
        if kind not in PROVENANCES:
            raise part.wrong("kind", ", ".join(PROVENANCES), kind)
        return Number(float(value), part.text("source"), kind)


def _is_finite(value: object) -> bool:
    """Whether it is a number that a float can hold."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
