"""--target cuda from checkpoint to tokens, its kernels run by Triton's interpreter on a CPU.

The answers are those of Hugging Face's eager code in float32: prompts packed, chunks, batches with
padded rows, greedy tokens of the plan itself, drafts that are verified side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import glmc_runtime
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc_runtime.engine.sequences import SequenceStep
from glmc_runtime.generate.session import Session
from tests.e2e.reference import greedy, load_eager
from tests.runtime.engine.outer.toy_engine import ToyEngine
from tests.support.checkpoints import drawn_checkpoint, tiny_file
from tests.support.interpreted import quick_interpreter

pytestmark = [
    pytest.mark.long,
    pytest.mark.usefixtures("shared_captures"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU itself is tested"),
]
PRESETS = {"sandwich norms, interleaved rope": "glm-4-9b-0414", "mixture with q/k norm": "glm-4.7"}
PROMPTS = [[5, 6, 7, 8, 9, 10], [20, 21], [30, 31, 32]]


@pytest.fixture(autouse=True, scope="module")
def _quick_interpreter() -> Iterator[None]:
    with quick_interpreter():
        yield


@pytest.fixture(scope="module", params=PRESETS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    drawn_checkpoint(folder, tiny_file(PRESETS[request.param], num_hidden_layers=2))
    return folder


@pytest.fixture(scope="module")
def session(checkpoint: Path) -> Session:
    options = CompileOptions(
        target="cuda",
        dtype="float32",
        max_context=64,
        block_size=16,
        decode_buckets=(1, 4),
        prefill_buckets=(4, 16),
    )
    compile_model(checkpoint, checkpoint.parent / "artifact", options)
    return glmc_runtime.load(checkpoint.parent / "artifact")


def test_greedy_tokens_are_those_of_hugging_face(session: Session, checkpoint: Path) -> None:
    assert session.interpreted and session.greedy and not session.emulated
    model = load_eager(checkpoint, torch.float32)
    completions = session.generate(PROMPTS, max_new_tokens=3, ignore_eos=True)
    assert [each.tokens for each in completions] == greedy(model, PROMPTS, 3)
    assert session.statistics.to_json()["interpreted"] is True


def test_drafts_of_one_sequence_see_each_other(session: Session, checkpoint: Path) -> None:
    """The decode plan can't have them side by side: it writes and attends in one launch."""
    model = load_eager(checkpoint, torch.float32)
    prompt, draft = PROMPTS[2], [40, 41, 42]
    expected = model(torch.tensor([prompt + draft])).logits[0, -3:]
    sequence = session.sequence(prompt)
    session.prefill([sequence])
    found = session.step([SequenceStep(sequence, draft, logits=3)])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    session.release(sequence)


@pytest.mark.usefixtures("session")
def test_an_outer_engine_over_its_own_cache(checkpoint: Path) -> None:
    """Heads after tokens, keys and values of a block side by side, and blocks of another size."""
    model = glmc_runtime.load_model(checkpoint.parent / "artifact")
    heads, dim = model.manifest.cache.tensors[0].shape
    layers = [torch.zeros(6, 2, 32, heads, dim, device=model.device) for _ in range(2)]
    kv = glmc_runtime.KVTensors(layers, "blocks kv tokens heads dim", scratch_block=5)
    attached = model.attach(kv)
    assert attached.interpreted and attached.manifest.cache.block_size == 32
    engine = ToyEngine(attached, range(5), 32, 5, True, model.device)
    expected = greedy(load_eager(checkpoint, torch.float32), PROMPTS[:2], 2)
    assert engine.run(PROMPTS[:2], 2) == expected
    assert engine.counts["prefill"] == engine.counts["mixed"] == engine.counts["decode"] == 1
