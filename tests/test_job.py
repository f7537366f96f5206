"""A job: read once, however much of it is asked for; what of it a front end is shared by."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc.compiler import back_end, front_end
from glmc.config import CompileOptions
from glmc.errors import InternalError, UsageError
from glmc.job import Job, read_job
from tests.support.checkpoints import tiny_checkpoint
from tests.support.command import SMALL, command_of

pytestmark = pytest.mark.usefixtures("shared_captures")
# Where what a compile is made from is read: module, function.
READ_ONCE = (
    ("glmc.presets.catalog", "_model_source"),
    ("glmc.weights.files", "read_header"),
    ("glmc.pipeline.selection", "read_pipeline"),
    ("glmc.job", "target_by_name"),
    ("glmc.job", "open_checkpoint"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("job") / "model", "glm-4-9b-0414")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    found: Counter[str] = Counter()

    def counted(module: str, name: str) -> None:
        real = __import__(module, fromlist=[name]).__dict__[name]

        def read(*given: Any, **named: Any) -> Any:
            found[name] += 1
            return real(*given, **named)

        monkeypatch.setattr(f"{module}.{name}", read)

    for module, name in READ_ONCE:
        counted(module, name)
    return found


# A verified compile does all that another does, and more that could read again.
@pytest.mark.long
@pytest.mark.parametrize(
    "verify",
    [pytest.param((), marks=pytest.mark.slow), ("--verify",)],
    ids=["compiled", "verified"],
)
def test_a_compile_reads_everything_once(
    verify: tuple[str, ...],
    model: Path,
    tmp_path: Path,
    reads: Counter[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "page.yaml"
    page.write_text("off: [silu_mul]\n", encoding="utf-8")
    dump = ("--dump", tmp_path / "dump", "--pipeline", page)
    run = command_of(capsys)
    outcome = run("compile", model, "-o", tmp_path / "artifact", *SMALL, *dump, *verify)
    assert outcome.status == 0, outcome
    assert reads == {name: 1 for _, name in READ_ONCE}


def test_a_variant_reads_nothing(model: Path, reads: Counter[str]) -> None:
    job = read_job(model, CompileOptions(weights="random"))
    reads.clear()
    other = job.variant(dtype=torch.float16, block_size=16)
    assert (other.dtype, other.lowering.dtype) == (torch.float16, torch.float16)
    assert (other.options.block_size, other.lowering.block_size) == (16, 16)
    assert (other.selection, other.source) == (job.selection, job.source)
    assert not reads


def test_weights_are_opened_when_they_are_asked_for(model: Path) -> None:
    assert read_job(model, CompileOptions(weights="none")).weights is None
    job = read_job(model, CompileOptions())
    assert job.weights is not None and job.weights is job.weights
    preset = read_job("glm-4.7", CompileOptions())  # a plan can be made of it
    with pytest.raises(UsageError, match="has no weights"):
        assert preset.weights is None


def test_a_model_without_experts_has_none_to_deal(model: Path) -> None:
    job = read_job("glm-4-9b-0414", CompileOptions(tensor_parallel=2, expert_parallel=True))
    with pytest.raises(UsageError, match="has no experts"):
        job.require_supported()


def test_a_front_end_is_shared_only_by_jobs_that_agree(model: Path) -> None:
    def job(**options: Any) -> Job:
        return read_job(model, CompileOptions(**{"dtype": "float32", "max_context": 64, **options}))

    front = front_end(job())
    assert back_end(front, job(decode_buckets=(1,))).job.lowering.max_sequences == 1
    for other in ({"dtype": "bfloat16"}, {"block_size": 64}, {"passes_off": ("rope",)}):
        with pytest.raises(InternalError, match="front end was made with other options"):
            back_end(front, job(**other))
