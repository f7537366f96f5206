"""The parser of a command: whether it takes an artifact is its own."""

from __future__ import annotations

from typing import Literal

import pytest

from glmc_runtime.command.options import Command, Option
from glmc_runtime.command.parser import parse
from glmc_runtime.errors import RequestError

OPTIONS = (Option("--ranks", "How many.", int, metavar="N"),)


def parsed(artifact: Literal["needed", "optional", "none"], *words: str) -> dict[str, object]:
    command = Command("check", "Check.", "nowhere:nothing", OPTIONS, artifact)
    return vars(parse("program", "1", {"check": command}, ["check", *words])[1])


@pytest.mark.parametrize("artifact", ["needed", "optional"])
def test_an_artifact_is_taken(artifact: Literal["needed", "optional"]) -> None:
    options = parsed(artifact, "--ranks", "2", "folder")
    assert (options["artifact"], options["ranks"]) == ("folder", 2)


def test_an_optional_artifact_may_be_left_out() -> None:
    assert parsed("optional", "--ranks", "2")["artifact"] is None
    with pytest.raises(RequestError, match="ARTIFACT"):
        parsed("needed", "--ranks", "2")


def test_a_command_without_an_artifact_takes_none() -> None:
    assert "artifact" not in parsed("none", "--ranks", "2")
    with pytest.raises(RequestError, match="no further argument"):
        parsed("none", "folder")
