"""``--deterministic``: the logits of a text, bit for bit, whatever runs beside it and however its
prompt is cut; and that without the option they do follow the batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc_runtime.engine.sequences import Sequence, SequenceStep
from glmc_runtime.generate.session import Session
from glmc_runtime.kernels.cpu.compiled import NoLibraryError, required
from tests.docs.markdown import ROOT

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("shared_captures")]

MODELS = {name: ROOT / "models" / name for name in ("tiny-dense", "tiny-moe")}
VOCABULARY, TOKENS = 1500, 5
Load = Callable[..., Session]


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    try:
        required("ordered")
    except NoLibraryError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    kept: dict[tuple[str, tuple[tuple[str, object], ...]], Session] = {}

    def make(model: str, **options: object) -> Session:
        key = (model, tuple(sorted(options.items())))
        if key not in kept:
            path = tmp_path_factory.mktemp("artifact") / "a"
            usual: dict[str, Any] = {"max_context": 256, "block_size": 16}
            given = CompileOptions(**{**usual, **options})
            compile_model(MODELS[model], path, given)
            kept[key] = glmc_runtime.load(path)
        return kept[key]

    yield make
    kept.clear()


def prompts(count: int, seed: int) -> list[list[int]]:
    source = random.Random(seed)
    lengths = [source.choice((1, 2, 17, 40, 90)) for _ in range(count)]
    return [[source.randrange(4, VOCABULARY) for _ in range(length)] for length in lengths]


def alone(session: Session, prompt: list[int]) -> torch.Tensor:
    """The logits after the prompt and after each of the likeliest tokens, [TOKENS, vocabulary]."""
    sequence = session.sequence(prompt)
    rows = [session.prefill([sequence])]
    while len(rows) < TOKENS:
        rows.append(session.decode([sequence], [int(rows[-1].argmax())]))
    session.release(sequence)
    return torch.cat(rows)


class Text:
    """A sequence in a schedule: its prompt in chunks, then a token in each step."""

    def __init__(self, session: Session, prompt: list[int]) -> None:
        self.sequence: Sequence = session.sequence(prompt)
        self.rows: list[torch.Tensor] = []

    @property
    def left(self) -> int:
        """Tokens of the prompt that are not computed yet."""
        return len(self.sequence) - self.sequence.cached

    def step(self, source: random.Random) -> SequenceStep:
        if self.left:
            count = source.randint(1, self.left)
            return SequenceStep(self.sequence, compute=count, logits=int(count == self.left))
        return SequenceStep(self.sequence, (int(self.rows[-1].argmax()),))


def together(session: Session, given: list[list[int]], seed: int) -> list[torch.Tensor]:
    """The same of many texts that join, leave and are cut at random."""
    source = random.Random(seed)
    waiting, running, done = [Text(session, prompt) for prompt in given], [], []
    texts = list(waiting)
    while waiting or running:
        joining = source.randint(0 if running else 1, len(waiting)) if waiting else 0
        running += [waiting.pop() for _ in range(joining)]
        chosen = source.sample(running, source.randint(1, len(running)))
        batch = [text.step(source) for text in chosen]
        logits = iter(session.step(batch))
        for text, item in zip(chosen, batch, strict=True):
            text.rows += [next(logits) for _ in range(item.logits)]
            if len(text.rows) == TOKENS:
                running.remove(text)
                done.append(text)
                session.release(text.sequence)
    return [torch.stack(text.rows) for text in texts]


def differing(session: Session, given: list[list[int]], seed: int) -> int:
    """Texts whose bits follow their company."""
    found = together(session, given, seed)
    pairs = zip(given, found, strict=True)
    return sum(not torch.equal(alone(session, prompt), rows) for prompt, rows in pairs)


@pytest.mark.parametrize("promise", ["batch", "ranks"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_bits_do_not_follow_the_batch(load: Load, model: str, dtype: str, promise: str) -> None:
    session = load(model, dtype=dtype, deterministic=promise)
    assert session.manifest.deterministic == promise
    for seed in (1, 2):
        assert differing(session, prompts(9, seed), seed) == 0


@pytest.mark.parametrize("profile", ["P-A", "P-B", "P-C"])
def test_nor_on_the_emulator(load: Load, profile: str) -> None:
    session = load(
        "tiny-moe",
        target="xpu",
        abi_profile=profile,
        dtype="bfloat16",
        deterministic="batch",
        block_size=64,
        max_context=128,
    )
    assert session.emulated
    assert differing(session, prompts(5, 4), 4) == 0


def test_without_the_option_they_do(load: Load) -> None:
    """Else the test above would prove nothing."""
    assert differing(load("tiny-dense", dtype="float32"), prompts(9, 1), 1) > 0


def test_nor_do_they_follow_buckets_blocks_or_threads(load: Load) -> None:
    usual = load("tiny-moe", dtype="float32", deterministic="batch")
    other = load(
        "tiny-moe",
        dtype="float32",
        deterministic="batch",
        block_size=24,
        decode_buckets=(3, 7),
        prefill_buckets=(50,),
    )
    threads = torch.get_num_threads()
    for prompt in prompts(4, 3):
        expected = alone(usual, prompt)
        assert torch.equal(alone(other, prompt), expected)
        try:
            torch.set_num_threads(1 if threads > 1 else 2)
            assert torch.equal(alone(usual, prompt), expected)
        finally:
            torch.set_num_threads(threads)


def test_tokens_are_those_of_the_usual_kernels(load: Load) -> None:
    """The order of sums is another one, the numbers are the same within rounding."""
    usual = load("tiny-moe", dtype="float32")
    ordered = load("tiny-moe", dtype="float32", deterministic="batch")
    for prompt in prompts(4, 5):
        torch.testing.assert_close(
            alone(ordered, prompt), alone(usual, prompt), rtol=1e-4, atol=1e-4
        )
