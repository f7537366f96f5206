"""Taps in device graphs of a real device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import glmc_runtime
from glmc_runtime.format.manifest import Guards
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.record.artifact import record_values
from glmc_runtime.record.artifact_run import ArtifactRun
from glmc_runtime.record.options import RecordOptions
from tests.runtime.record.recorded import MemorySink, differing, same_bits, values_of_plans
from tests.runtime.toy import write_toy

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
PROMPTS = ((3, 14, 15), (9, 2, 6, 5, 3, 5), (1,))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cuda") / "toy"
    return write_toy(root, target="cuda", guards=Guards("0.1.0", "2.5", "cuda"))


def recorded(path: Path, run: ArtifactRun) -> MemorySink:
    artifact, sink = load_artifact(path), MemorySink()
    options = RecordOptions(PROMPTS, steps=3)
    record_values(artifact, values_of_plans(artifact.plans), sink, options, run)
    return sink


def test_each_replay_of_a_graph_delivers_the_values_of_its_step(path: Path) -> None:
    replayed = recorded(path, ArtifactRun())
    assert differing(replayed, recorded(path, ArtifactRun(graph=False))) == []
    small = recorded(path, ArtifactRun(tap_memory=16 * 72 * 4))
    assert small.run["replays"] > 1
    assert small.run["replays_equal"]
    assert differing(replayed, small) == []


def test_logits_are_those_of_a_session_without_taps(path: Path) -> None:
    replayed = recorded(path, ArtifactRun())
    session = glmc_runtime.load(path)
    sequences = [session.sequence(prompt) for prompt in PROMPTS]
    logits = session.prefill(sequences)
    name = "model.layers.0.logits.Toy.0.forward_output.0"
    for step in range(3):
        assert same_bits(replayed.tensors[step, name], logits.cpu())
        logits = session.decode(sequences, logits.argmax(-1).tolist())
