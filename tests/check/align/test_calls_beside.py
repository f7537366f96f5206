"""The calls of an artifact beside a record: own errors, or the reason why there are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from glmc.check.align.calls_beside import CallsBeside, calls_beside
from glmc.check.align.compare import align
from glmc.check.align.result import Verdict
from glmc.check.align.whose import with_own_errors
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc.errors import UsageError
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.record.options import RecordOptions
from glmc_runtime.record.tensors import Record
from tests.check.align.memory_record import MemoryRecord
from tests.check.align.memory_sink import of_artifact, of_checkpoint
from tests.support.checkpoints import tiny_checkpoint

pytestmark = pytest.mark.usefixtures("shared_captures")
OPTIONS = CompileOptions(max_context=64, prefill_buckets=(16,), decode_buckets=(1, 4))
PROMPTS = ((5, 6, 7), (8,))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("beside") / "model", "glm-4.7")


@pytest.fixture(scope="module")
def artifact(model: Path) -> Path:
    """Its weights are in the checkpoint, and it says where that is."""
    path = model.parent / "artifact"
    compile_model(model, path, replace(OPTIONS, weights="from-checkpoint"))
    return path


@pytest.fixture(scope="module")
def reference(model: Path) -> Record:
    return of_checkpoint(model, RecordOptions(PROMPTS, 1), dtype="bfloat16")


def beside(reference: Record, path: Path) -> CallsBeside:
    return calls_beside(reference, load_artifact(path), LoadOptions(), None)


@pytest.mark.long
def test_an_artifact_says_where_its_checkpoint_is(artifact: Path, reference: Record) -> None:
    calls = beside(reference, artifact)
    own = calls.own_errors()
    tokens = reference.facts["tokens"]
    compared = align(reference, of_artifact(artifact, RecordOptions(PROMPTS, 1, tokens)))
    found = with_own_errors(compared, own, lambda module, layer: True)
    assert {each.verdict for each in found.values} == {Verdict.OK}
    assert all(each.own is not None and each.bound is not None for each in found.values)
    assert {each.paired_by for each in found.values} == {"key", "program"}
    assert found.unpaired[1] == ()
    assert own.facts[0]["made_by"].startswith("Hugging Face transformers")


def test_a_record_that_does_not_say_its_tokens_is_none_to_run_beside(
    artifact: Path, model: Path
) -> None:
    foreign = MemoryRecord("foreign.h5", {"tool": "torch_xray"})
    with pytest.raises(UsageError, match="does not say which tokens it is of"):
        beside(foreign, artifact)


def test_a_reference_in_another_dtype_is_rounded_otherwise(artifact: Path) -> None:
    facts = {"tool": "glmc", "prompts": PROMPTS, "tokens": [[1], [2]], "dtype": "float32"}
    with pytest.raises(UsageError, match="in bfloat16, and the reference is in float32") as caught:
        beside(MemoryRecord("exact.h5", facts), artifact)
    assert caught.value.remedy == "record the reference with --dtype bfloat16"


def test_without_a_checkpoint_nothing_is_compiled_again(reference: Record, model: Path) -> None:
    packed = model.parent / "packed"
    compile_model(model, packed, replace(OPTIONS, weights="none"))
    with pytest.raises(UsageError, match="nothing says where the checkpoint is") as caught:
        beside(reference, packed)
    assert caught.value.remedy == "--checkpoint DIR"
