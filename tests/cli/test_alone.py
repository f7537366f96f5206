"""Options that may stand without a value."""

from __future__ import annotations

import pytest

from glmc.cli.app import command_of
from glmc.cli.commands import ROWS


@pytest.mark.parametrize(
    ("words", "promise"),
    [
        (["--deterministic", "model"], "batch"),
        (["model", "--deterministic", "--force"], "batch"),
        (["model", "--deterministic=ranks"], "ranks"),
        (["model"], None),
    ],
)
def test_deterministic_takes_a_value_behind_an_equals_sign_alone(
    words: list[str], promise: str | None
) -> None:
    command = command_of(next(row for row in ROWS if row.name == "compile"))
    with command.make_context("glmc compile", words) as context:
        assert context.params["deterministic"] == promise
        assert context.params["model"] == "model"
