"""Options of the adapters, from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc_engines.core.options import Options, platform_asked_for
from glmc_runtime.errors import RequestError

NAMES = ("GLMC_ARTIFACT", "GLMC_COMPILER", "GLMC_REQUIRE", "GLMC_ENGINE_PLATFORM")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_nothing_is_set() -> None:
    assert Options.from_environment() == Options(None, None, False)
    assert platform_asked_for() is None


def test_all_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(NAMES, ("~/glm", "python3.11", "1", "cpu"), strict=True):
        monkeypatch.setenv(name, value)
    assert Options.from_environment() == Options(Path.home() / "glm", "python3.11", True)
    assert platform_asked_for() == "cpu"


def test_a_switch_that_is_neither_on_nor_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLMC_REQUIRE", "yes")
    with pytest.raises(RequestError, match="GLMC_REQUIRE"):
        Options.from_environment()
