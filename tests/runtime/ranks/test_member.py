"""What is found out before ranks meet: who they are, and what they may not be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import glmc_runtime
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.engine.ranks.launch import environment
from glmc_runtime.engine.ranks.member import (
    backend_for,
    identity_of,
    launched,
    require_same,
    take_card,
)
from glmc_runtime.engine.ranks.reports import error_to_json, report_of
from glmc_runtime.errors import (
    ArtifactError,
    GuardError,
    Lines,
    PlanError,
    RankError,
    RequestError,
)
from glmc_runtime.loading.loader import load_artifact
from tests.runtime.toy import toy_weights


def test_a_rank_of_another_version_is_named(ranks_path: Path) -> None:
    mine = identity_of(load_artifact(ranks_path).manifest)
    require_same(1, mine, dict(mine))
    with pytest.raises(RankError, match="rank 1 has another glmc-runtime than") as caught:
        require_same(1, {**mine, "glmc-runtime": "0.0.1"}, mine)
    assert caught.value.found == "glmc-runtime 0.0.1"


def test_another_artifact_has_another_identity(ranks_path: Path, greedy_ranks_path: Path) -> None:
    one, other = (
        identity_of(load_artifact(path).manifest) for path in (ranks_path, greedy_ranks_path)
    )
    with pytest.raises(RankError, match="has another artifact than"):
        require_same(0, one, other)


def test_threads_are_divided_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(13)))
    given = {"RANK": "9", "HOME": "/root"}
    own = environment(given, 1, 4)
    assert (own["OMP_NUM_THREADS"], own["RANK"], own["WORLD_SIZE"]) == ("3", "1", "4")
    assert own["HOME"] == "/root" and environment(given, 1, 20)["OMP_NUM_THREADS"] == "1"
    assert environment({"OMP_NUM_THREADS": "7"}, 1, 4)["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"RANK": "0"}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "one", "WORLD_SIZE": "2"}, None),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (5, 8, 1)),
        ({"RANK": "5", "WORLD_SIZE": "8"}, (5, 8, 5)),
    ],
)
def test_torchrun_says_who_a_process_is(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    expected: tuple[int, int, int] | None,
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    place = launched()
    found = None if place is None else (place.rank, place.size, place.local_rank)
    assert found == expected


def test_another_number_of_processes_is_refused(
    ranks_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RankError, match="another number of ranks") as caught:
        glmc_runtime.load(ranks_path)
    assert (caught.value.expected, caught.value.found) == ("2 ranks", "4")
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ArtifactError, match="has no rank 3"):
        glmc_runtime.load(ranks_path)


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_process_that_is_no_rank_loads_nothing(ranks_path: Path, rank: int) -> None:
    """-1 is the rank of a process that is not in a group."""
    with pytest.raises(ArtifactError, match=f"has no rank {rank}"):
        load_artifact(ranks_path, rank=rank)


def test_an_artifact_of_one_rank_asks_nothing(
    toy_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    session = glmc_runtime.load(toy_path)
    assert not session.follow()
    session.close()
    assert session.prefill([session.sequence([1, 2])]).shape[0] == 1


def test_tensors_of_the_caller_are_refused(ranks_path: Path) -> None:
    with pytest.raises(RequestError, match="can't be the weights of ranks"):
        glmc_runtime.load(ranks_path, weights=toy_weights())


def test_an_engine_passes_its_group(ranks_path: Path) -> None:
    with pytest.raises(RequestError, match="one process of an engine a rank"):
        glmc_runtime.load_model(ranks_path)


@pytest.mark.parametrize(("backend", "card"), [(None, None), ("gloo", 1)])
def test_a_rank_without_a_card(
    ranks_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str | None, card: int | None
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(
        "glmc_runtime.engine.ranks.member.own_device", lambda *_: torch.device("cuda")
    )
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    artifact, options = load_artifact(ranks_path), LoadOptions(backend=backend)
    if card is None:
        with pytest.raises(GuardError, match="the rank has no card") as caught:
            take_card(artifact, 3, options)
        assert (caught.value.expected, caught.value.found) == ("4 cards or more", "2")
    else:
        take_card(artifact, 3, options)
        assert taken == [card]


@pytest.mark.parametrize(
    ("device", "emulated", "asked", "expected"),
    [
        ("cuda", None, None, "nccl"),
        ("cuda", False, None, "nccl"),
        ("cuda", True, None, "gloo"),
        ("cpu", True, None, "gloo"),
        ("cpu", None, None, "gloo"),
        ("cuda", None, "gloo", "gloo"),
    ],
)
def test_ranks_are_a_group_of_the_backend_of_what_runs(
    ranks_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    emulated: bool | None,
    asked: str | None,
    expected: str,
) -> None:
    """An emulator is one whether it was asked for or stands in for a library that is not here."""
    vendor = None if emulated is None else SimpleNamespace(emulated=emulated)
    monkeypatch.setattr("glmc_runtime.engine.ranks.member.vendor_of", lambda *_: vendor)
    options = LoadOptions(backend=asked)
    found = backend_for(load_artifact(ranks_path), torch.device(device), options)
    assert found == expected


def test_errors_keep_their_class_and_get_a_rank() -> None:
    error = PlanError("wrong", place="decode", found=Lines.of(["one", "two"]))
    report = report_of(2, 4, error_to_json(error))
    assert type(report.error) is PlanError and report.own
    assert report.error.place == "rank 2 of 4: decode"
    assert isinstance(report.error.found, Lines) and "two" in str(report.error)


def test_a_consequence_is_told_from_a_cause() -> None:
    error = PlanError("a kernel failed")
    error.__cause__ = RuntimeError("Connection closed by peer")
    assert not report_of(0, 2, error_to_json(error)).own
    other = report_of(0, 2, error_to_json(RuntimeError("Connection closed by peer")))
    assert isinstance(other.error, RankError) and not other.own
    assert "RuntimeError: Connection closed by peer" in str(other.error)
