"""The offline engine, one start: tokens of Hugging Face, whatever the scheduler does with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.engines.sglang.support import Reference, counted, engine, prompts

GREEDY = {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}


@pytest.fixture(scope="module")
def moe(artifact: Callable[..., str]) -> Iterator[Any]:
    with engine("tiny-moe", artifact("tiny-moe"), chunked_prefill_size=32) as started:
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


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
        {"temperature": 1.0, "min_p": 0.05},
        {"temperature": 0.0, "presence_penalty": 0.5, "frequency_penalty": 0.5},
        {"temperature": 0.0, "logit_bias": {"7": 100.0}},
    ],
    ids=lambda sampling: "+".join(sorted(set(sampling) - {"temperature"})),
)
def test_what_samples_takes_our_logits(moe: Any, sampling: dict[str, Any]) -> None:
    asked = {**sampling, "max_new_tokens": 12, "ignore_eos": True}
    (answer,) = moe.generate(input_ids=[list(range(30))], sampling_params=asked)
    assert len(answer["output_ids"]) == 12
    if "logit_bias" in sampling:
        assert answer["output_ids"] == [7] * 12


def test_a_penalty_works_on_our_logits(moe: Any) -> None:
    text = list(range(30))
    plain, answer = (
        moe.generate(input_ids=text, sampling_params={**GREEDY, **each})["output_ids"]
        for each in ({}, {"repetition_penalty": 2.0})
    )
    assert answer != plain
    assert len(set(answer)) > len(set(plain))


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
    asked = {"temperature": 0, "max_new_tokens": 60, "json_schema": json.dumps(schema)}
    answer = moe.generate("An answer:", sampling_params=asked)
    if answer["meta_info"]["finish_reason"]["type"] == "stop":
        assert set(json.loads(answer["text"])) == {"a", "b"}
    else:
        assert answer["text"].lstrip().startswith("{")
