"""An artifact compiled again: the same plans, or a reason why own error is not known."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from glmc.check.align.captured import CapturedModel
from glmc.check.align.own import own_errors
from glmc.check.align.rebuilt import rebuild, weights_of
from glmc.check.align.result import Verdict
from glmc.check.align.run import Sequences
from glmc.compiled import Compiled, FrontEnd
from glmc.compiler import back_end, compile_model
from glmc.config import CompileOptions
from glmc.errors import UsageError
from glmc.job import Job, read_job
from glmc_runtime.loading.loader import load_artifact
from tests.sabotage import with_wrong_constant
from tests.support.checkpoints import tiny_checkpoint

pytestmark = pytest.mark.usefixtures("shared_captures")
OPTIONS = CompileOptions(max_context=64, prefill_buckets=(16,), decode_buckets=(1, 4))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("rebuilt") / "model", "glm-4.7")


@pytest.fixture(scope="module")
def artifact(model: Path) -> Path:
    path = model.parent / "artifact"
    compile_model(model, path, replace(OPTIONS, block_size=8))
    return path


def test_an_artifact_is_aligned_with_its_model(artifact: Path, model: Path) -> None:
    rebuilt = rebuild(artifact, model)
    assert rebuilt.compiled.job.options.block_size == 8
    assert rebuilt.compiled.job.options.dtype == "bfloat16"
    reference = CapturedModel(rebuilt.captured, rebuilt.weights, rebuilt.values)
    alignment = own_errors(rebuilt, Sequences([[5, 6, 7], [8]], 1, [[40, 41]]), reference)
    assert {each.verdict for each in alignment.values} == {Verdict.OK}


def test_another_plan_is_not_explained(
    artifact: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(front: FrontEnd, job: Job) -> Compiled:
        return with_wrong_constant(back_end(front, job), "plan_norm_eps")

    monkeypatch.setattr("glmc.check.align.rebuilt.back_end", wrong)
    with pytest.raises(UsageError, match="the plan of prefill is another"):
        rebuild(artifact, model)


def test_another_checkpoint_is_not_taken(artifact: Path, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-6}))
    with pytest.raises(UsageError, match=r"config\.json of .* is not what it was compiled from"):
        rebuild(artifact, other)


def test_what_has_no_weights_can_t_be_replayed(artifact: Path, model: Path) -> None:
    job = read_job(model, replace(OPTIONS, weights="none"))
    with pytest.raises(UsageError, match="it has no weights of its own"):
        weights_of(job, load_artifact(artifact))
