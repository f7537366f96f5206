"""The table of collectives that an artifact of several ranks has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmc import compiler
from glmc.artifact import collectives
from glmc.artifact.collectives import SWITCHES
from glmc.config import CompileOptions
from glmc.errors import UsageError
from glmc.job import Job, read_job
from glmc_runtime.errors import ArtifactError, PlanError
from glmc_runtime.format.collectives import COLLECTIVES, AlgorithmTable, default_table
from glmc_runtime.format.collectives_json import read_table, table_to_text

MODEL = Path(__file__).parents[2] / "models" / "tiny-dense"


def job(ranks: int, target: str = "xpu", **more: Any) -> Job:
    return read_job(MODEL, CompileOptions(target=target, tensor_parallel=ranks, **more))


def collective_files(of: Job) -> dict[str, bytes]:
    return collectives.collective_files(of.target.name, of.lowering, of.options.collectives)


def table_of(of: Job) -> AlgorithmTable | None:
    return collectives.table_of(of.target.name, of.lowering, of.options.collectives)


def test_one_rank_has_none() -> None:
    assert collective_files(job(1)) == {}


def test_kunlun_has_the_given_bands_and_the_switches_of_them() -> None:
    files = collective_files(job(8))
    table = read_table(files[COLLECTIVES])
    assert table == default_table("xpu", 8)
    assert str(table.entries[0].origin).startswith("given, not measured")
    lines = files[SWITCHES].decode().splitlines()
    assert lines[1:] == ["BKCL_ENABLE_TREE=1", "BKCL_MULTI_TREE_THRESHOLD=2097152"]
    assert lines[0].startswith("#")


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_other_targets_have_no_switches(target: str) -> None:
    assert list(collective_files(job(2, target))) == [COLLECTIVES]


def test_a_given_table_is_taken() -> None:
    given = default_table("cuda", 2)
    found = table_of(job(2, "cpu", collectives=table_to_text(given)))
    assert found == given


def test_a_deterministic_artifact_adds_along_a_tree() -> None:
    table = table_of(job(2, deterministic="batch"))
    assert table is not None
    assert {entry.numerics for entry in table.entries} == {"tree"}
    assert {band.algorithm for entry in table.entries for band in entry.bands} == {
        "butterfly",
        "halving_doubling",
    }


def test_a_table_of_another_group_is_refused() -> None:
    given = table_to_text(default_table("cpu", 4))
    with pytest.raises(PlanError, match="no bands for this group"):
        table_of(job(2, collectives=given))
    with pytest.raises(ArtifactError):
        table_of(job(2, collectives="{}"))


def test_a_table_needs_ranks() -> None:
    with pytest.raises(UsageError, match="one rank has no collectives"):
        CompileOptions(collectives="{}")


def test_a_table_of_another_group_is_refused_before_the_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "compile_plan", lambda *_: pytest.fail("the work has begun"))
    of_two = table_to_text(default_table("cpu", 2))
    with pytest.raises(PlanError, match="no bands for this group"):
        compiler.compile_job(job(3, "cpu", collectives=of_two), tmp_path / "made")
