"""The installed release has every name that the adapter needs."""

from __future__ import annotations

import pytest

from glmc_engines.surface.command import main


def test_nothing_that_is_needed_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["sglang"])
    assert status == 0, capsys.readouterr().out
