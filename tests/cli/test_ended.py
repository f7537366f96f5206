"""A command that is ended by a signal unwinds, and says so by its status."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from glmc.cli.main import main
from glmc_runtime.command.ending import ENDING


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_the_status_is_that_of_the_signal(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[str] = []

    def ended(*given: object, **named: object) -> None:
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append("up")

    monkeypatch.setattr("glmc.cli.inspect_command.read_artifact", ended)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        main(["inspect", str(tmp_path)])
    assert stop.value.code == 128 + number
    assert cleaned == ["up"]
    assert signal.getsignal(number) is before
