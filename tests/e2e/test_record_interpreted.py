"""A record of --target cuda: its fused decode kernels, run by Triton's interpreter on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc_runtime.engine import loaded as loaded_module
from glmc_runtime.record.artifact import record_artifact
from glmc_runtime.record.artifact_run import ArtifactRun
from glmc_runtime.record.options import OP, RecordOptions
from tests.runtime.record.recorded import MemorySink, differing
from tests.runtime.replay.test_phase import FakeGraphs
from tests.support.checkpoints import drawn_checkpoint, tiny_file
from tests.support.interpreted import quick_interpreter

pytestmark = [
    pytest.mark.long,
    pytest.mark.usefixtures("shared_captures"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU itself is tested"),
]
OPTIONS = RecordOptions(((5, 6, 7, 8, 9, 10), (20, 21), (30, 31, 32)), steps=1, level=OP)


@pytest.fixture(autouse=True, scope="module")
def _quick_interpreter() -> Iterator[None]:
    with quick_interpreter():
        yield


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    drawn_checkpoint(folder, tiny_file("glm-4.7", num_hidden_layers=2))
    options = CompileOptions(
        target="cuda",
        dtype="float32",
        max_context=64,
        block_size=16,
        decode_buckets=(1, 4),
        prefill_buckets=(4, 16),
    )
    compile_model(folder, folder.parent / "artifact", options)
    return folder.parent / "artifact"


def test_values_of_fused_launches_are_those_of_their_calls(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called, replayed = MemorySink(), MemorySink()
    record_artifact(artifact, called, OPTIONS, ArtifactRun(graph=False))
    graphs = FakeGraphs()
    monkeypatch.setattr(loaded_module, "graphs_for", lambda device, emulated: graphs)
    record_artifact(artifact, replayed, OPTIONS)
    assert graphs.replays > 0
    assert differing(called, replayed) == []
    assert called.run["made_by"] == "glmc artifact, cuda (interpreted)"
    assert {len(tensor) for (step, _), tensor in called.tensors.items() if step} == {3}
