"""Levels by ``GLMC_LOGS`` and by flags, what they show, and a program with handlers of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from glmc_runtime.command import logs
from glmc_runtime.command.logs import ARTIFACTS, configure, configure_library, read_request

PASSES = logging.getLogger("glmc.passes")
WEIGHTS = logging.getLogger("glmc_runtime.weights")
DEVICE = logging.getLogger("glmc_runtime.device")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(logs.VARIABLE, raising=False)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    yield
    monkeypatch.delenv(logs.VARIABLE, raising=False)
    configure()


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of one record of each level by each of three loggers."""
    for logger in (PASSES, WEIGHTS, DEVICE):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logger.log(level, "%s", logging.getLevelName(level).lower())
    return capsys.readouterr().err.splitlines()


def test_levels_are_read_as_torch_reads_them() -> None:
    request = read_request("passes, +lowering,-weights,pases,help")
    assert request.levels == {"passes": 20, "lowering": 10, "weights": 40}
    assert (request.unknown, request.help) == (("pases",), True)
    every = read_request("+all,-passes").levels
    assert set(every) == set(ARTIFACTS) and every["passes"] == 40 and every["graphs"] == 10
    assert read_request(" , ") == logs.Request({})


def test_a_command_shows_warnings_and_names_who_warns(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    assert shown(capsys) == [
        *("glmc: warning", "glmc: error"),
        *("glmc-runtime: warning", "glmc-runtime: error") * 2,
    ]


def test_flags_and_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(verbose=1)
    assert "glmc[passes]: info" in shown(capsys)
    configure(verbose=2)
    assert "glmc-runtime[weights]: debug" in shown(capsys)
    configure(quiet=True)
    quiet = ["glmc: error", "glmc-runtime: error", "glmc-runtime: warning", "glmc-runtime: error"]
    assert shown(capsys) == quiet  # of the device warnings too: emulated is always said
    monkeypatch.setenv(logs.VARIABLE, "+passes,-device")
    configure(quiet=True)
    lines = shown(capsys)
    assert lines[:2] == ["glmc[passes]: debug", "glmc[passes]: info"]
    assert lines[-2:] == ["glmc-runtime: error"] * 2


def test_a_library_leaves_logging_alone_unless_it_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in logs.PACKAGES:
        monkeypatch.setattr(logging.getLogger(package), "handlers", [])
        logging.getLogger(package).setLevel(logging.NOTSET)
    configure_library()
    assert not logging.getLogger("glmc").handlers
    assert shown(capsys) == ["warning", "error"] * 3  # as Python shows what nobody handles
    monkeypatch.setenv(logs.VARIABLE, "passes,wieghts,help")
    configure_library()
    said = capsys.readouterr().err
    assert "GLMC_LOGS names no artifact 'wieghts': did you mean 'weights'?" in said
    assert all(f"  {name} " in said for name in ARTIFACTS)
    assert shown(capsys)[0] == "glmc[passes]: info"


def test_handlers_of_the_program_get_what_would_be_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records: list[logging.LogRecord] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    monkeypatch.setenv(logs.VARIABLE, "passes")
    configure_library()
    monkeypatch.setattr(logging.getLogger(), "handlers", [Keeps()])
    assert shown(capsys) == []
    assert [record.levelname for record in records if record.name == "glmc.passes"] == [
        *("INFO", "WARNING", "ERROR")
    ]


def test_names_from_elsewhere_move_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    PASSES.warning("node %s", "\x1b[2J")
    assert capsys.readouterr().err == "glmc: node \\x1b[2J\n"
