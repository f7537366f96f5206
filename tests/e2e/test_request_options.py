"""Options of a request against transformers: the same tokens, and the same distributions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from glmc_runtime.engine.sampling import Sampler
from glmc_runtime.engine.sampling.drawing import distribution
from glmc_runtime.generate.generation_config import Defaults, settle
from glmc_runtime.generate.options import RequestOptions
from glmc_runtime.generate.session import Session
from tests.e2e.build import CPU, Builder
from tests.e2e.reference import load_eager

pytestmark = pytest.mark.usefixtures("shared_captures")
MODELS = Path(__file__).parents[2] / "models"
COUNT = 24
PROMPTS = [[5, 6, 7, 8, 9, 5, 6], [300, 12, 40], [77]]


@pytest.fixture(
    scope="module", params=["tiny-dense", pytest.param("tiny-moe", marks=pytest.mark.slow)]
)
def model(request: pytest.FixtureRequest) -> Any:
    return load_eager(MODELS / request.param, torch.float32)


@pytest.fixture(scope="module")
def session(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Session:
    name = Path(model.config._name_or_path).name
    folder = tmp_path_factory.mktemp("options")
    return Builder(MODELS / name, folder, block_size=32).session(CPU, "float32", max_context=256)


def _expected(model: Any, prompt: list[int], **options: Any) -> list[int]:
    ids = torch.tensor([prompt])
    settings = {"do_sample": False, "max_new_tokens": COUNT, "pad_token_id": 0, **options}
    with torch.no_grad():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return [int(token) for token in found[0, len(prompt) :]]


# Pairs of what transformers and what this runtime is told.
GREEDY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    name: (theirs, ours or theirs)
    for name, theirs, ours in (
        ("penalty", {"repetition_penalty": 1.3}, None),
        ("reward", {"repetition_penalty": 0.7}, None),
        ("n-gram", {"no_repeat_ngram_size": 2}, None),
        ("n-gram of one", {"no_repeat_ngram_size": 1}, None),
        ("suppressed", {"suppress_tokens": list(range(0, 1536, 3))}, None),
        (
            "bias",
            {"sequence_bias": [[[token], 4.0 - token % 9] for token in range(0, 1536, 5)]},
            {"logit_bias": {token: 4.0 - token % 9 for token in range(0, 1536, 5)}},
        ),
        ("minimum", {"min_new_tokens": 20, "suppress_tokens": list(range(1, 1530))}, None),
        (
            "all",
            {
                "repetition_penalty": 1.15,
                "no_repeat_ngram_size": 3,
                "suppress_tokens": [265, 290],
                "sequence_bias": [[[token], 1.5] for token in range(0, 1536, 7)],
            },
            {
                "repetition_penalty": 1.15,
                "no_repeat_ngram_size": 3,
                "suppress_tokens": [265, 290],
                "logit_bias": {token: 1.5 for token in range(0, 1536, 7)},
            },
        ),
    )
}


_SLOW = ("reward", "n-gram of one", "suppressed")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in _SLOW else name for name in GREEDY],
)
def test_greedy_tokens_are_those_of_transformers(model: Any, session: Session, name: str) -> None:
    theirs, ours = GREEDY[name]
    expected = [_expected(model, prompt, **theirs) for prompt in PROMPTS]
    found = session.generate(PROMPTS, max_new_tokens=COUNT, **ours)
    assert [completion.tokens for completion in found] == expected
    plain = session.generate(PROMPTS, max_new_tokens=COUNT)
    assert found != plain  # the option does something


def test_bad_words_are_those_of_transformers(model: Any, session: Session) -> None:
    """Single tokens, pairs and longer ones that the model would have written, and its eos ids."""
    for prompt in PROMPTS:
        plain = _expected(model, prompt)
        words = [plain[2:3], plain[4:6], plain[7:10], [prompt[-1], plain[0]], [1531], [1533, 5]]
        words = [word for word in words if word]
        expected = _expected(model, prompt, bad_words_ids=words)
        (found,) = session.generate(prompt, max_new_tokens=COUNT, bad_words=words)
        assert found.tokens == expected != plain


def test_bad_words_as_texts_are_never_written(session: Session) -> None:
    (plain,) = session.generate("The source code", max_new_tokens=COUNT)
    words = [word for word in plain.text.split() if word.isalpha()][:4]
    (found,) = session.generate("The source code", max_new_tokens=COUNT, bad_words=words)
    assert words and not set(words) & set(found.text.split())


def test_presence_and_frequency_penalties_are_those_of_their_definition(
    model: Any, session: Session
) -> None:
    """logit - count * frequency - (count > 0) * presence, counted in the answer alone."""
    frequency, presence = 0.75, 1.25
    for prompt in PROMPTS[:2]:
        tokens: list[int] = []
        for _ in range(24):
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, -1].float()
            for token in set(tokens):
                logits[token] -= frequency * tokens.count(token) + presence
            tokens.append(int(logits.argmax()))
        (found,) = session.generate(
            prompt,
            max_new_tokens=24,
            ignore_eos=True,
            frequency_penalty=frequency,
            presence_penalty=presence,
        )
        assert found.tokens == tokens


DRAWN: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"top_k": 7},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"typical_p": 0.7},
    {"temperature": 1.4, "top_k": 50, "top_p": 0.9, "min_p": 0.05, "typical_p": 0.9},
    {"temperature": 0.5, "top_p": 0.8, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    {"top_k": 3, "min_p": 1.0},
    {"top_p": 0.95, "bad_words_ids": [[4], [5, 6]], "suppress_tokens": [9]},
]


@pytest.mark.parametrize("options", DRAWN, ids=repr)
def test_distributions_are_those_of_transformers(
    model: Any, session: Session, options: dict[str, Any]
) -> None:
    """The rows of a real model, spread out and narrowed: every filter keeps and drops something."""
    for prompt in PROMPTS:
        logits = _logits(session, prompt)
        for row in (logits, logits / 6, logits * 3):
            config = transformers.GenerationConfig(**{"top_k": 0, **options, "do_sample": True})
            model._prepare_special_tokens(config, device="cpu")
            process = model._get_logits_processor(config, len(prompt), device="cpu")
            scores = process(torch.tensor([prompt]), row[None].clone())[0]
            expected = torch.softmax(scores.double(), 0)
            settings = settle(
                RequestOptions(
                    do_sample=True,
                    **{key.removesuffix("_ids"): value for key, value in options.items()},
                ),
                Defaults(),
                len(prompt),
                (),
                len(row),
                lambda word: [],
            )
            sampler = Sampler(settings.sampling, prompt)
            found = torch.zeros(len(row), dtype=torch.float64)
            probabilities, order = distribution(sampler.processed(row), settings.sampling)
            found[order] = probabilities / probabilities.sum()
            assert torch.equal(found > 0, expected > 0)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def _logits(session: Session, prompt: list[int]) -> Tensor:
    sequence = session.sequence(prompt)
    logits = session.prefill([sequence])[0]
    session.release(sequence)
    return logits.float()


def test_log_probabilities_are_those_of_the_model(model: Any, session: Session) -> None:
    prompt = PROMPTS[0]
    for options in ({}, {"repetition_penalty": 1.5}, {"temperature": 0.8, "seed": 3}):
        (found,) = session.generate(
            prompt, max_new_tokens=12, ignore_eos=True, logprobs=3, **options
        )
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *found.tokens]])).logits[0, len(prompt) - 1 : -1]
        logprobs = logits.float().log_softmax(-1)
        assert found.logprobs is not None and len(found.logprobs) == 12
        for row, token, entry in zip(logprobs, found.tokens, found.logprobs, strict=True):
            assert entry.token == token
            assert entry.logprob == pytest.approx(float(row[token]), abs=1e-3)
            best = row.topk(3)
            assert [token for token, _ in entry.top] == best.indices.tolist()
            assert [value for _, value in entry.top] == pytest.approx(
                best.values.tolist(), abs=1e-3
            )


@pytest.mark.slow
def test_the_file_of_the_checkpoint_decides_as_in_transformers(tmp_path: Path) -> None:
    """Through a compile: what a request leaves out is that of generation_config.json."""
    folder = tmp_path / "model"
    shutil.copytree(MODELS / "tiny-dense", folder)
    file = folder / "generation_config.json"
    values = json.loads(file.read_text())
    values |= {"repetition_penalty": 1.3, "no_repeat_ngram_size": 4, "max_new_tokens": 5}
    values |= {
        "temperature": 0.6,
        "top_p": 0.9,
        "stop_strings": ["it", "\n", "ur"],
        "do_sample": False,
    }
    file.write_text(json.dumps(values))
    session = Builder(folder, tmp_path / "made").session(CPU, "float32", max_context=256)
    model = load_eager(folder, torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    reasons = set()
    for text in ("Return", "The source code", "class Reader:", "In order"):
        ids = session.text.encode(text)
        with torch.no_grad():
            expected = model.generate(torch.tensor([ids]), tokenizer=tokenizer, pad_token_id=0)[0]
        (found,) = session.generate(text)
        assert found.tokens == expected[len(ids) :].tolist()
        reasons.add(found.finish_reason)
        (plain,) = session.generate(text, generation_config=False, ignore_eos=True)
        assert len(plain.tokens) == 128 and plain.tokens[:5] != found.tokens
    assert reasons == {"stop", "length"}
