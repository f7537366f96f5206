"""Device graphs on a real device: captured at load, replayed with other lengths and batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import glmc_runtime
from glmc_runtime.graph import CudaGraphs
from glmc_runtime.manifest import Guards
from tests.runtime.toy import reference_greedy, write_toy

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
PROMPTS = [[3, 14, 15], [9, 2, 6, 5, 3, 5], [1], list(range(30)), [8, 9], [40, 41], [50]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cuda") / "toy"
    return write_toy(root, target="cuda", guards=Guards("0.1.0", "2.5", "cuda"))


def test_captured_decode_matches_plain_torch_in_every_bucket(path: Path) -> None:
    session = glmc_runtime.load(path)
    assert session.device.type == "cuda"
    captures = session.statistics.to_json()["captures"]
    assert [(item["bucket"], item["graphs"]) for item in captures] == [(1, 2), (2, 2), (4, 2)]
    for number in (1, 2, 3, 4, 7):
        completions = session.generate(PROMPTS[:number], max_new_tokens=12, ignore_eos=True)
        assert [item.tokens for item in completions] == [
            reference_greedy(prompt, 12) for prompt in PROMPTS[:number]
        ]


def test_a_replayed_step_takes_no_device_memory(path: Path) -> None:
    session = glmc_runtime.load(path)
    sequences = [session.sequence(prompt) for prompt in PROMPTS[:3]]
    session.prefill(sequences)
    session.decode(sequences, [1, 2, 3])
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    for token in range(5):
        session.decode(sequences, [token] * 3)
    torch.cuda.synchronize()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_what_can_not_be_captured_is_an_error_and_the_device_stays_usable(path: Path) -> None:
    graphs = CudaGraphs()
    x = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError):
        graphs.capture((x.item,))
    (replay,) = graphs.capture((lambda: x.add_(1),))
    torch.cuda.synchronize()
    before = float(x[0])
    replay()
    assert float(x[0]) == before + 1
