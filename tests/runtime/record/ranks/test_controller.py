"""What is refused before a rank is started, and processes that record: they end together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from glmc_runtime.cli import main
from glmc_runtime.errors import ArtifactError, RequestError
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.record.artifact import record_artifact, record_values
from glmc_runtime.record.artifact_run import ArtifactRun
from glmc_runtime.record.options import OP, RecordOptions
from glmc_runtime.record.plan_values import values_of
from glmc_runtime.record.ranks.member import options_of, work_of
from tests.runtime.ranks.conftest import kernels as kernels  # a fixture
from tests.runtime.ranks.conftest import no_process as no_process  # a fixture
from tests.runtime.ranks.test_failures import children
from tests.runtime.record.ranks.ranked import record_in_threads
from tests.runtime.record.ranks.toys import change_weight, write_valued
from tests.runtime.record.recorded import MemorySink, differing

PROMPTS = ((3, 14, 15), (9, 2, 6, 5, 3, 5))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_valued(tmp_path_factory.mktemp("toy") / "toy", 2)


@pytest.mark.usefixtures("no_process")
def test_what_cannot_be_recorded_is_refused_before_a_rank_is_started(path: Path) -> None:
    with pytest.raises(RequestError, match="nothing to record"):
        record_artifact(path, MemorySink(), RecordOptions(()))


@pytest.mark.usefixtures("no_process")
def test_ranks_that_torchrun_has_started_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError, match="torchrun has started some") as caught:
        record_artifact(path, MemorySink(), RecordOptions(PROMPTS))
    assert caught.value.found == "rank 1 of 2"


@pytest.mark.usefixtures("no_process")
def test_ranks_with_plans_of_their_own_are_refused(path: Path) -> None:
    artifact = load_artifact(path, rank=None)
    phases = [
        replace(entry, ranks=(rank,)) for entry in artifact.manifest.phases for rank in range(2)
    ]
    assert phases[1].key == PhaseKey("prefill", 1)
    other = replace(artifact, manifest=replace(artifact.manifest, phases=tuple(phases)))
    with pytest.raises(RequestError, match="plans of their own"):
        record_values(other, values_of(artifact), MemorySink(), RecordOptions(PROMPTS))


def test_ranks_are_told_all_that_is_asked_for() -> None:
    asked = RecordOptions(
        PROMPTS, 2, ((1, 2), (3, 4)), frozenset({3, 1}), ("*.mlp",), OP, parameters=True
    )
    assert options_of(work_of(asked, ArtifactRun())) == asked
    assert options_of(work_of(RecordOptions(PROMPTS), ArtifactRun())) == RecordOptions(PROMPTS)


@pytest.mark.long
def test_processes_record_what_threads_do(
    path: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(kernels))
    options, threads, processes = RecordOptions(PROMPTS, steps=2), MemorySink(), MemorySink()
    record_in_threads(path, threads, options, ArtifactRun())
    facts = record_artifact(path, processes, options)
    assert differing(threads, processes) == []
    assert processes.run == threads.run == facts
    assert not children()


@pytest.mark.long
def test_a_rank_with_another_file_ends_all(
    kernels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(kernels))
    changed, out = write_valued(tmp_path / "toy", 2), tmp_path / "out"
    change_weight(changed, "head", lambda weight: 2 * weight)
    with pytest.raises(ArtifactError, match="was changed after it was written") as caught:
        record_artifact(changed, MemorySink(), RecordOptions(PROMPTS))
    assert "rank 1 of 2" in caught.value.place
    assert not children()
    pytest.importorskip("h5py")
    out.mkdir()
    words = ["record", str(changed), "--ids", "1,2,3", "-o", str(out / "a.h5")]
    assert main(words) == 2
    assert [*out.iterdir()] == []
    assert "rank 1 of 2" in capsys.readouterr().err
    assert main([*words, "--no-verify"]) == 0
    said = capsys.readouterr()
    assert "ranks differ in" in said.err and "by up to" in said.err
    assert f"{out / 'a.h5'}: 27 tensors of 2 steps" in said.out
