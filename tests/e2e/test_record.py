"""Records of the shipped models: a value inside a replayed step has the bits that its call left.

Here buffers are used again by later calls, so a copy that is made too late is another value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import glmc_runtime
from glmc.check.align.reference import record_checkpoint
from glmc_runtime.engine import loaded as loaded_module
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.record.artifact import record_artifact
from glmc_runtime.record.artifact_run import ArtifactRun
from glmc_runtime.record.options import MODULE, OP, RecordOptions
from tests.e2e.build import CPU, EMULATED, Builder, Place
from tests.runtime.record.recorded import MemorySink, differing, same_bits
from tests.runtime.replay.test_phase import FakeGraphs

pytestmark = pytest.mark.usefixtures("shared_captures")
MODELS = Path(__file__).parents[2] / "models"
# 17 tokens in a bucket of 64, three sequences in one of 4.
PROMPTS = ((5, 6, 7, 8, 9), tuple(range(20, 31)), (3,))
OPTIONS = RecordOptions(PROMPTS, steps=2, level=OP)
PLACES = [
    pytest.param((name, place), id=f"{name}-{place.name}")
    for name in ("tiny-dense", "tiny-moe")
    for place in (CPU, EMULATED[0])
]


@pytest.fixture(scope="module", params=PLACES)
def artifact(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_captures: None
) -> Iterator[tuple[Path, Place]]:
    name, place = request.param
    builder = Builder(MODELS / name, tmp_path_factory.mktemp("record"))
    yield builder.artifact(place), place


def recorded(artifact: tuple[Path, Place], run: ArtifactRun) -> MemorySink:
    sink = MemorySink()
    record_artifact(artifact[0], sink, OPTIONS, run)
    return sink


def _load(place: Place) -> LoadOptions:
    return LoadOptions(emulate=True if place.target == "xpu" else None)


def test_a_replayed_step_has_the_bits_of_its_calls(artifact: tuple[Path, Place]) -> None:
    load = _load(artifact[1])
    replayed = recorded(artifact, ArtifactRun(load=load))
    called = recorded(artifact, ArtifactRun(graph=False, load=load))
    assert differing(replayed, called) == []
    assert len(replayed.tensors) > 150
    small = recorded(artifact, ArtifactRun(tap_memory=1 << 18, load=load))
    assert small.run["replays"] > 1
    assert differing(replayed, small) == []

    for (step, name), tensor in replayed.tensors.items():
        ends = name.startswith("lm_head") or tensor.shape[0] == 3
        assert len(tensor) == (3 if step or ends else 17), name
        assert torch.isfinite(tensor).all(), name
    assert replayed.run["emulated"] is (artifact[1].target == "xpu")


def test_logits_are_those_of_a_session_without_taps(artifact: tuple[Path, Place]) -> None:
    path, place = artifact
    sink = recorded(artifact, ArtifactRun(load=_load(place)))
    session = glmc_runtime.load(path, emulate=_load(place).emulate)
    sequences = [session.sequence(prompt) for prompt in PROMPTS]
    logits = session.prefill(sequences)
    for step in range(3):
        assert same_bits(sink.tensors[step, "lm_head.Linear.0.forward_output.0"], logits)
        tokens = logits.argmax(-1).tolist()
        if step < 2:
            assert [each[step] for each in sink.run["tokens"]] == tokens
            logits = session.decode(sequences, tokens)


def test_a_captured_graph_delivers_every_value(
    artifact: tuple[Path, Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = _load(artifact[1])
    called = recorded(artifact, ArtifactRun(graph=False, load=load))
    graphs = FakeGraphs()
    monkeypatch.setattr(loaded_module, "graphs_for", lambda device, emulated: graphs)
    replayed = recorded(artifact, ArtifactRun(load=load))
    assert graphs.replays == len(graphs.captured) * OPTIONS.steps
    assert differing(replayed, called) == []


@pytest.mark.parametrize("place", [CPU, EMULATED[0]], ids=lambda place: place.name)
def test_recorded_values_are_those_of_hugging_face_modules(place: Place, tmp_path: Path) -> None:
    """In float32, row by row under the same keys: a value that is taken too early, too late or of
    other columns is far off."""
    path = Builder(MODELS / "tiny-moe", tmp_path).artifact(place, "float32")
    ours, stock = MemorySink(), MemorySink()
    options = replace(OPTIONS, level=MODULE)
    record_artifact(path, ours, options, ArtifactRun(load=_load(place)))
    tokens = tuple(map(tuple, ours.run["tokens"]))
    record_checkpoint(MODELS / "tiny-moe", stock, replace(options, tokens=tokens), dtype="float32")
    under = {
        (step, key): tensor
        for (step, first), tensor in stock.tensors.items()
        for key in (first, *stock.others[step, first])
    }
    assert ours.run["tokens"] == [list(each) for each in tokens]
    compared = 0
    for (step, key), tensor in ours.tensors.items():
        if "TopkRouter.0" in key:
            continue  # experts and weights in another order
        lengths = torch.tensor(ours.lengths[step])
        expected = under[step, key].reshape(int(lengths.sum()), -1)
        if len(expected) != len(tensor):
            assert "lm_head" in key
            expected = expected[lengths.cumsum(0) - 1]
        torch.testing.assert_close(tensor.flatten(1), expected, rtol=1e-3, atol=1e-3)
        compared += 1
    assert compared > 100
