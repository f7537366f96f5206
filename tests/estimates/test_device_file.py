"""Descriptions of devices: those of the package are whole, and others are refused by the place."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from glmc.errors import UsageError
from glmc.estimates.device import PROVENANCES, THIRD_PARTY
from glmc.estimates.device_file import parse_device, read_device
from glmc.estimates.names import device_names


def _content() -> dict[str, Any]:
    file = resources.files("glmc.estimates.devices").joinpath("h200.yaml")
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    return content


@pytest.mark.parametrize("name", device_names())
def test_every_number_has_a_source(name: str) -> None:
    device = read_device(name)
    assert device.name == name
    assert len(device.numbers()) >= 18
    for path, number in device.numbers().items():
        assert number.kind in PROVENANCES, path
        assert len(number.source.split()) > 2, path


def test_what_is_third_party_is_said() -> None:
    assert read_device("p800").third_party
    assert not read_device("h200").third_party
    kinds = {number.kind for number in read_device("p800").numbers().values()}
    assert kinds == {THIRD_PARTY, "assumed"}


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    content = _content()
    content["read"]["value"] = 1e12
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    assert read_device(str(tmp_path / "mine.yaml")).read.value == 1e12


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("memory", None, "memory"),
        ("read.value", "fast", "read.value"),
        ("read.value", -1.0, "read.value"),
        ("read.value", True, "read.value"),
        ("read.value", 10**400, "read.value"),
        ("read.kind", "guessed", "read.kind"),
        ("read.source", "", "read.source"),
        ("overlap.value", 0.5, "overlap.value"),
        ("calls.product.read.value", 0.9, "calls.product.read.value"),
        ("calls.norm", {}, "calls.norm"),
        ("links", "none", "links"),
        ("cards", 0, "cards"),
        ("links.messages.beta.value", 0, "links.messages.beta.value"),
        ("links.library.start", None, "links.library.start"),
        ("links.paper", {}, "links.paper"),
        ("colour", "green", "colour"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: object, said: str) -> None:
    content = _content()
    *parents, last = path.split(".")
    part = content
    for name in parents:
        part = part[name]
    if value is None:
        del part[last]
    else:
        part[last] = value
    with pytest.raises(UsageError) as caught:
        parse_device(yaml.safe_dump(content).encode(), "mine.yaml")
    assert caught.value.place == f"mine.yaml: {said}"


@pytest.mark.parametrize("data", [b"\xff", b"[", b"a: !!python/name:os.system", b"", b"- 1"])
def test_what_is_no_description_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError):
        parse_device(data, "mine.yaml")


def test_aliases_that_nest_are_not_spelled_out() -> None:
    """Thirty aliases that would be a gigabyte of text."""
    rows = ["&a0 [x, x]", *(f"&a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 30))]
    data = yaml.safe_dump(_content() | {"title": None}).replace("null", f"[{', '.join(rows)}]")
    with pytest.raises(UsageError) as caught:
        parse_device(data.encode(), "mine.yaml")
    assert caught.value.place == "mine.yaml: title" and len(str(caught.value)) < 1000


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        read_device(str(tmp_path / "nowhere.yaml"))
