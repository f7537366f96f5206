"""The offline engine, one start: tokens of Hugging Face, whatever the scheduler does with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.engines.sglang.support import MARGIN, Reference, counted, engine, prompts

CLOSE = 1e-3
"""Of probabilities that are nearer than this either may be the larger one."""
GREEDY = {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}


@pytest.fixture(scope="module")
def moe(artifact: Callable[..., str]) -> Iterator[Any]:
    # Between the tokens of its JSON a tiny model would write spaces for ever.
    options = {"chunked_prefill_size": 32, "constrained_json_disable_any_whitespace": True}
    with engine("tiny-moe", artifact("tiny-moe"), **options) as started:
        yield started


@pytest.fixture(scope="module")
def expected(reference: Callable[[str], Reference]) -> Reference:
    return reference("tiny-moe")


def test_tokens_are_those_of_hugging_face(moe: Any, expected: Reference) -> None:
    texts = prompts(12, 100)  # most are longer than a chunk
    answers = moe.generate(input_ids=texts, sampling_params=GREEDY)
    for text, answer in zip(texts, answers, strict=True):
        assert len(answer["output_ids"]) == 24
        assert expected.first_difference(text, answer["output_ids"]) is None


def test_every_step_was_a_replay_and_nothing_else_ran(moe: Any) -> None:
    before = counted("steps")
    moe.generate(input_ids=prompts(3, 20, seed=1), sampling_params=GREEDY)
    assert counted("steps") > before + 20
    assert counted("steps") == counted("replays")
    assert counted("replays", phase="decode", bucket="4") >= 20


def test_a_prefix_in_the_cache_is_not_computed_again(moe: Any, expected: Reference) -> None:
    (text,) = prompts(1, 1, seed=2)
    text = (text * 60)[:60]
    moe.generate(input_ids=text, sampling_params=GREEDY)
    tokens = counted("tokens")
    answer = moe.generate(input_ids=[*text, 5, 6, 7], sampling_params=GREEDY)
    assert answer["meta_info"]["cached_tokens"] >= 59
    assert counted("tokens") - tokens < 40
    assert expected.first_difference([*text, 5, 6, 7], answer["output_ids"]) is None


def test_logprobs_of_prompt_and_answer(moe: Any, expected: Reference) -> None:
    (text,) = prompts(1, 1, seed=3)
    text = list(range(100, 150)) + text  # more than a chunk
    answer = moe.generate(
        input_ids=text,
        sampling_params=GREEDY,
        return_logprob=True,
        logprob_start_len=0,
        top_logprobs_num=3,
    )
    tokens = text + answer["output_ids"]
    logprobs = expected.logits(tokens).log_softmax(-1)
    told = [row[0] for row in answer["meta_info"]["input_token_logprobs"][1:]]
    told += [row[0] for row in answer["meta_info"]["output_token_logprobs"]]
    want = logprobs[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(told), want, atol=2e-4, rtol=0)
    top = answer["meta_info"]["output_top_logprobs"][0]
    assert [token for _, token, _ in top] == logprobs[len(text) - 1].topk(3).indices.tolist()


def test_several_answers_of_one_prompt(moe: Any) -> None:
    answers = moe.generate(
        input_ids=list(range(40)), sampling_params={"n": 3, "temperature": 1.0, "max_new_tokens": 8}
    )
    assert len({tuple(answer["output_ids"]) for answer in answers}) > 1


TEXT = list(range(30))


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        ({"top_k": 5}, lambda found: found.place < 5),
        ({"top_p": 0.3}, lambda found: found.before < 0.3 + CLOSE),
        ({"min_p": 0.5}, lambda found: found.share > 0.5 - CLOSE),
        ({"top_k": 5, "top_p": 0.1}, lambda found: found.place < 5 and found.before < 0.1 + CLOSE),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_samples_are_of_the_likeliest_of_our_logits(
    moe: Any, expected: Reference, sampling: dict[str, Any], allowed: Callable[[Sample], bool]
) -> None:
    """So hot that of tokens sampled without the option many were others."""
    heat = 4.0
    asked = {"temperature": heat, "max_new_tokens": 24, "ignore_eos": True}
    with_option, without = (
        samples(expected, moe.generate(input_ids=TEXT, sampling_params=each)["output_ids"], heat)
        for each in ({**asked, **sampling}, asked)
    )
    assert len(with_option) == 24 and all(map(allowed, with_option))
    assert len({found.place for found in with_option}) > 1
    assert not all(map(allowed, without))


@dataclass(frozen=True)
class Sample:
    """Where a sampled token stands among the reference's: how many are likelier, what these are
    likely in all, and its own probability as a share of the likeliest's. Those that are as good as
    equally likely count as less likely."""

    place: int
    before: float
    share: float


def samples(expected: Reference, answer: list[int], heat: float) -> list[Sample]:
    rows = (expected.logits(TEXT + answer)[len(TEXT) - 1 : -1] / heat).softmax(-1)
    found = []
    for row, token in zip(rows, answer, strict=True):
        likelier = row[row > row[token] * (1 + CLOSE)]
        share = float(row[token] / row.max())
        found.append(Sample(len(likelier), float(likelier.sum()), share))
    return found


@pytest.mark.parametrize(
    "penalties",
    [
        {"presence_penalty": 2.0},
        {"frequency_penalty": 1.0},
        {"presence_penalty": 0.5, "frequency_penalty": 0.5},
        {"repetition_penalty": 2.0},
    ],
    ids="+".join,
)
def test_penalties_change_our_logits(
    moe: Any, expected: Reference, penalties: dict[str, float]
) -> None:
    """By the tokens that SGLang has counted, which the plain answer repeats."""
    plain, answer = (
        moe.generate(input_ids=TEXT, sampling_params={**GREEDY, **each})["output_ids"]
        for each in ({}, penalties)
    )
    assert answer != plain
    rows = expected.logits(TEXT + answer)[len(TEXT) - 1 : -1]
    assert any(explained(rows, answer, penalties, late) for late in (False, True))


def explained(
    rows: torch.Tensor, answer: list[int], penalties: dict[str, float], late: bool
) -> bool:
    """Whether each token is the likeliest of the reference's logits with penalties, as far as one
    is. Where SGLang prepares a step while the one before it runs, it counts ``late``: the last
    token is not there yet, and the prompt's last one was the first."""
    for place, (logits, token) in enumerate(zip(rows, answer, strict=True)):
        seen = [TEXT[-1], *answer[: place - 1]][:place] if late else answer[:place]
        counts = torch.bincount(torch.tensor(seen, dtype=torch.int64), minlength=len(logits))
        factor = penalties.get("repetition_penalty", 1.0)
        scaled = torch.where(logits > 0, logits / factor, logits * factor)
        row = torch.where(counts > 0, scaled, logits)
        row = row - penalties.get("presence_penalty", 0.0) * (counts > 0)
        row = row - penalties.get("frequency_penalty", 0.0) * counts
        best = row.topk(2)
        if float(best.values[0] - best.values[1]) < MARGIN:
            return place > 4
        if token != int(best.indices[0]):
            return False
    return True


def test_a_bias_is_added_to_our_logits(moe: Any) -> None:
    asked = {**GREEDY, "max_new_tokens": 12, "logit_bias": {"7": 100.0}}
    assert moe.generate(input_ids=TEXT, sampling_params=asked)["output_ids"] == [7] * 12


def test_a_stop_string_ends_an_answer(moe: Any) -> None:
    plain = moe.generate(input_ids=list(range(20)), sampling_params=GREEDY)
    word = plain["text"][3:6]
    answer = moe.generate(input_ids=list(range(20)), sampling_params={**GREEDY, "stop": [word]})
    assert answer["meta_info"]["finish_reason"]["type"] == "stop"
    assert word not in answer["text"]


def _grammars_need_a_device() -> bool:
    """Whether this release of SGLang applies the masks of a grammar on devices alone."""
    from sglang.srt.constrained.xgrammar_backend import XGrammarGrammar

    mask = torch.full((1, 1), -1, dtype=torch.int32)
    try:
        XGrammarGrammar.apply_vocab_mask(
            XGrammarGrammar.__new__(XGrammarGrammar), torch.zeros(1, 32), mask
        )
    except RuntimeError as error:
        return "Unsupported device" in str(error)
    return False


def test_an_answer_that_a_schema_allows(moe: Any) -> None:
    if _grammars_need_a_device():
        pytest.skip("grammars of this release of SGLang need a device")
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    asked = {"temperature": 0, "max_new_tokens": 200, "json_schema": json.dumps(schema)}
    answer = moe.generate("An answer:", sampling_params=asked)
    assert answer["meta_info"]["finish_reason"]["type"] == "stop"
    found = json.loads(answer["text"])
    assert set(found) == {"a", "b"} and found["a"] <= 99 and found["b"] in ("x", "y")
