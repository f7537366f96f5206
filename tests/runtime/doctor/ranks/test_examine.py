"""``doctor --ranks``: every probe on host memory, as text and as JSON; mistakes by name."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from glmc_runtime.cli import main
from glmc_runtime.doctor.ranks import backend_here, backend_of, examine_ranks, probes
from glmc_runtime.errors import RequestError

pytestmark = pytest.mark.long

ACTING = "tests.runtime.command.acting"
PROBES = ["environment", "switches", "cards", "segments", "card", "group", "window", "links"]


def test_two_ranks_over_gloo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--ranks", "2", "--backend", "gloo", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True and list(found) == ["ranks", "passed"]
    probes = found["ranks"]["probes"]
    assert list(probes) == PROBES
    assert probes["group"]["lines"] == ["formed; all-reduces of 1 and 1048576 elements add rightly"]
    (pair,) = probes["links"]["values"]["pairs"].values()
    assert pair["microseconds"] > 0 and pair["gigabytes_per_second"] > 0
    assert {probes[name]["verdict"] for name in ("switches", "window")} == {"not here"}


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no task ends."""
    monkeypatch.setattr(probes, "_TASKS", ACTING)
    monkeypatch.setattr(probes, "group", partial(probes.group, task=f"{ACTING}:group"))


@pytest.mark.usefixtures("hanging")
def test_what_hangs_is_ended_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["doctor", "--ranks", "2", "--backend", "gloo", "--probe-limit", "0.5"]
    assert main(asked) == 1
    text = capsys.readouterr().out
    assert text.count("timed out after 0.5 s: no answer of rank 0, 1") == 3
    assert text.endswith("verdict of the ranks: FAIL\n")


@pytest.mark.usefixtures("hanging")
def test_an_artifact_and_ranks_are_checked_together(
    toy_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["doctor", str(toy_path), "--ranks", "2", "--probe-limit", "0.2", "--json"]
    assert main(asked) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "nothing to check"
    assert (found["passed"], found["ranks"]["passed"]) == (False, False)
    assert found["ranks"]["backend"] == "gloo"


def test_nothing_at_all_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 2
    assert "there is nothing to check" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ranks": 1}, "ranks"),
        ({"ranks": 2, "backend": "mpi"}, "backend"),
        ({"ranks": 2, "limit": 0.0}, "needs time"),
    ],
)
def test_numbers_that_cant_be_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        examine_ranks(**options)  # type: ignore[arg-type]


def test_the_backend_is_that_of_the_cards_where_there_are_enough(tmp_path: Path) -> None:
    assert backend_of("xpu", emulated=False) == backend_of("cuda", emulated=False) == "nccl"
    assert backend_of("xpu", emulated=True) == backend_of("cpu", emulated=False) == "gloo"
    for number in range(2):
        (tmp_path / f"xpu{number}").touch()
    files = (str(tmp_path / "nvidia*"), str(tmp_path / "xpu*"))
    assert (backend_here(2, files), backend_here(3, files)) == ("nccl", "gloo")
