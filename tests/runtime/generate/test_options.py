"""Options of requests: merging, contradictions, defaults, and several answers to one prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import glmc_runtime
from glmc_runtime.engine.sampling import SamplingParameters
from glmc_runtime.errors import ArtifactError, RequestError
from glmc_runtime.generate.generation_config import FILE, Defaults, read_defaults, settle
from glmc_runtime.generate.options import RequestOptions, Settings, options_for, options_of
from glmc_runtime.generate.session import Session
from tests.runtime.toy import EOS, MAX_CONTEXT, reference_greedy, reference_logits, write_toy

PROMPTS = [[3, 14, 15], [9, 2, 6, 5, 3, 5], [1], list(range(30)), [8, 9], [40, 41], [50]]
DRAWN = {"temperature": 1.0, "seed": 4, "ignore_eos": True, "max_new_tokens": 10}


def _settled(
    options: RequestOptions, defaults: Defaults | None = None, prompt: int = 3
) -> Settings:
    return settle(options, defaults or Defaults(), prompt, EOS, 64, lambda word: [[7]])


def _file(**values: Any) -> Defaults:
    return read_defaults({FILE: json.dumps(values).encode()})


def test_what_is_left_out_is_greedy_and_short() -> None:
    assert _settled(RequestOptions()) == Settings(SamplingParameters(), 128, frozenset(EOS))


@pytest.mark.parametrize(
    ("said", "temperature"),
    [
        ({}, 0.0),
        ({"temperature": 0}, 0.0),
        ({"temperature": 0.5}, 0.5),
        ({"do_sample": True}, 1.0),
        ({"do_sample": True, "temperature": 0.5}, 0.5),
        ({"do_sample": False}, 0.0),
        ({"do_sample": False, "temperature": 0}, 0.0),
        ({"top_p": 0.5}, 0.0),
    ],
)
def test_when_tokens_are_drawn(said: dict[str, Any], temperature: float) -> None:
    assert _settled(RequestOptions(**said)).sampling.temperature == temperature


def test_a_file_gives_what_a_request_leaves_out() -> None:
    defaults = _file(
        do_sample=True, temperature=0.6, top_p=0.8, repetition_penalty=1.1, max_new_tokens=7,
        eos_token_id=[1], pad_token_id=2, transformers_version="5.0", use_cache=True, num_beams=1,
        begin_suppress_tokens=[], suppress_tokens=[], penalty_alpha=0.0, guidance_scale=1.0,
    )  # fmt: skip
    found = _settled(RequestOptions(), defaults)
    assert found.sampling == SamplingParameters(0.6, 50, 0.8, repetition_penalty=1.1)
    assert found.max_new_tokens == 7 and found.ends == frozenset(EOS)
    found = _settled(RequestOptions(top_k=3, temperature=0.2, max_new_tokens=9), defaults)
    assert found.sampling == SamplingParameters(0.2, 3, 0.8, repetition_penalty=1.1)
    assert found.max_new_tokens == 9
    for greedy in ({"temperature": 0}, {"do_sample": False}):
        assert _settled(RequestOptions(**greedy), defaults).sampling.greedy


@pytest.mark.parametrize("do_sample", [False, None])
def test_a_file_without_sampling_is_greedy_and_keeps_its_temperature(do_sample: Any) -> None:
    defaults = _file(temperature=0.6, top_k=9, do_sample=do_sample)
    assert _settled(RequestOptions(), defaults).sampling.greedy
    drawn = _settled(RequestOptions(do_sample=True), defaults).sampling
    assert (drawn.temperature, drawn.top_k) == (0.6, 9)


def test_lengths_of_a_file_count_the_prompt() -> None:
    defaults = _file(max_length=20, min_length=8)
    found = _settled(RequestOptions(), defaults, prompt=5)
    assert (found.max_new_tokens, found.sampling.min_new_tokens) == (15, 3)
    found = _settled(RequestOptions(max_new_tokens=4, min_new_tokens=1), defaults, prompt=30)
    assert (found.max_new_tokens, found.sampling.min_new_tokens) == (4, 1)
    with pytest.raises(RequestError, match="max_length"):
        _settled(RequestOptions(), defaults, prompt=20)
    assert _settled(RequestOptions(), _file(max_length=20, max_new_tokens=3)).max_new_tokens == 3


@pytest.mark.parametrize(
    "values",
    [
        {"num_beams": 4},
        {"guidance_scale": 1.5},
        {"forced_eos_token_id": 3},
        {"begin_suppress_tokens": [3]},
        {"max_time": 2.0},
        {"temperature": "hot"},
        {"temperature": math.nan},
        {"do_sample": True, "temperature": 0.0},
        {"do_sample": "yes"},
        {"top_k": 2.5},
        {"max_new_tokens": 0},
        {"max_length": "long"},
        {"repetition_penalty": 0},
        {"stop_strings": [3]},
    ],
    ids=repr,
)
def test_what_a_file_may_not_say_is_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=list(values)[-1].removesuffix("_strings")) as caught:
        _file(**values)
    assert FILE in str(caught.value) and "generation_config=False" in caught.value.remedy


@pytest.mark.parametrize("text", [b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_a_file_that_is_no_object(text: bytes) -> None:
    with pytest.raises(ArtifactError, match=FILE):
        read_defaults({FILE: text})
    assert read_defaults({}) == Defaults()


def test_a_session_reads_the_file_unless_told_not_to(tmp_path: Path) -> None:
    (tmp_path / "toy" / "tokenizer").mkdir(parents=True)
    values = {"max_new_tokens": 5, "repetition_penalty": 1e3, "num_return_sequences": 1}
    (tmp_path / "toy" / "tokenizer" / FILE).write_text(json.dumps(values))
    session = glmc_runtime.load(write_toy(tmp_path / "toy"))
    found = session.generate([1, 2], ignore_eos=True)[0].tokens
    assert len(found) == len({*found, 1, 2}) - 2 == 5
    plain = session.generate([1, 2], ignore_eos=True, generation_config=False, max_new_tokens=5)
    assert plain[0].tokens == reference_greedy([1, 2], 5) != found
    own = session.generate([1, 2], ignore_eos=True, repetition_penalty=1.0)
    assert own == plain


def test_options_come_as_keywords_as_one_and_one_each(session: Session) -> None:
    two = RequestOptions(max_new_tokens=2)
    for options, lengths in (
        (two, [2, 2]),
        ({"max_new_tokens": 2}, [2, 2]),
        ([two, None], [2, 128]),
        ([{"max_new_tokens": 3}, two], [3, 2]),
        (None, [128, 128]),
    ):
        found = options_for(2, options, None, {"top_k": 3})
        assert [_settled(each).max_new_tokens for each in found] == lengths
        assert [each.top_k for each in found] == [3, 3]
    found = session.generate(PROMPTS[:2], options=[two, {"max_new_tokens": 3}], ignore_eos=True)
    assert [len(completion.tokens) for completion in found] == [2, 3]


def test_names_of_transformers_are_taken() -> None:
    found = options_of({"stop_strings": "a", "bad_words_ids": [[1]], "num_return_sequences": 2})
    assert (found.stop, found.bad_words, found.n) == (("a",), ((1,),), 2)


WRONG: dict[str, Callable[[Session], object]] = {
    "an unknown name": lambda session: session.stream([1], temprature=0.5),
    "an unknown name in options": lambda session: session.stream([1], options={"topk": 5}),
    "two names for one": lambda session: session.stream([1], stop="a", stop_strings="b"),
    "options and a keyword": lambda session: session.stream(
        [1], options=RequestOptions(top_k=3), top_k=3
    ),
    "sampling and a keyword": lambda session: session.stream(
        [1], sampling=SamplingParameters(1.0, top_k=3), top_k=4
    ),
    "too few options": lambda session: session.stream([[1], [2]], options=[RequestOptions()]),
    "sampling that is greedy": lambda session: session.stream([1], do_sample=True, temperature=0),
    "greedy with a temperature": lambda session: session.stream(
        [1], do_sample=False, temperature=0.5
    ),
    "greedy answers": lambda session: session.stream([1], n=2),
    "no answer": lambda session: session.stream([1], n=0, temperature=1),
    "a billion answers": lambda session: session.stream([1], n=10**9, temperature=1),
    "no token": lambda session: session.stream([1], max_new_tokens=0),
    "a negative minimum": lambda session: session.stream([1], min_new_tokens=-1),
    "negative logprobs": lambda session: session.stream([1], logprobs=-1),
    "a fraction of logprobs": lambda session: session.stream([1], logprobs=1.5),
    "a truth as logprobs": lambda session: session.stream([1], logprobs=True),
    "min_p": lambda session: session.stream([1], min_p=1.5),
    "typical_p": lambda session: session.stream([1], typical_p=0),
    "repetition_penalty": lambda session: session.stream([1], repetition_penalty=0.0),
    "a negative penalty": lambda session: session.stream([1], repetition_penalty=-1.0),
    "presence_penalty": lambda session: session.stream([1], presence_penalty=2.5),
    "frequency_penalty": lambda session: session.stream([1], frequency_penalty=math.nan),
    "a bias of no token": lambda session: session.stream([1], logit_bias={64: 1.0}),
    "a bias of infinity": lambda session: session.stream([1], logit_bias={3: -math.inf}),
    "a bad word of no token": lambda session: session.stream([1], bad_words=[[3, 64]]),
    "an empty bad word": lambda session: session.stream([1], bad_words=[[]]),
    "a suppressed token": lambda session: session.stream([1], suppress_tokens=[-1]),
    "a stop id": lambda session: session.stream([1], stop_token_ids=[1.5]),
    "ids in a text": lambda session: session.stream([1], stop_token_ids="12"),
    "a switch": lambda session: session.stream([1], ignore_eos=1),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_be_meant_is_refused(session: Session, name: str) -> None:
    with pytest.raises(RequestError) as caught:
        WRONG[name](session)
    assert caught.value.code == "GLMC-2004"
    assert caught.value.expected


def test_what_can_be_gone_through_once_is_kept(session: Session) -> None:
    (free,) = session.generate([1], max_new_tokens=4, ignore_eos=True)
    prompts = [[1], [1]]
    for name in ("suppress_tokens", "stop_token_ids", "bad_words"):
        once: dict[str, Any] = {
            name: iter([[free.tokens[0]]] if name == "bad_words" else free.tokens[:1])
        }
        for found in session.generate(prompts, max_new_tokens=4, ignore_eos=True, **once):
            assert found.tokens != free.tokens, name


def test_options_that_leave_no_token(session: Session) -> None:
    with pytest.raises(RequestError, match="forbid every token"):
        session.generate([1], suppress_tokens=range(64))
    with pytest.raises(RequestError, match="no finite numbers"):
        session.generate([1], logit_bias={3: 1e300})
    assert session.cache.allocator.available == session.cache.allocator.usable


def test_stop_ids_that_no_model_has_do_nothing(session: Session) -> None:
    (drawn,) = session.generate([1], **DRAWN)
    assert len(drawn.tokens) == 10
    for token in (99, -1, 1 << 70):
        for shortest in (0, 4):
            ends = {"stop_token_ids": [token], "min_new_tokens": shortest}
            assert session.generate([1], **ends, **DRAWN)[0].tokens == drawn.tokens
    (first,) = session.generate([1], max_new_tokens=1)
    (lone,) = session.generate([1], stop_token_ids=first.tokens[0])
    assert (lone.tokens, lone.stop_reason) == (first.tokens, first.tokens[0])


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.5},
        {"presence_penalty": 1.0},
        {"frequency_penalty": 1.0},
        {"logit_bias": {5: 100.0}},
        {"bad_words": [[5]]},
        {"suppress_tokens": [5]},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 5},
        {"logprobs": 0},
        {"temperature": 1.0},
    ],
    ids=repr,
)
def test_options_never_take_the_greedy_tokens_of_the_plans(
    tmp_path: Path, toy_path: Path, options: dict[str, Any]
) -> None:
    """They need logits; what needs none in the same batch is as before."""
    session = glmc_runtime.load(write_toy(tmp_path / "toy", greedy=True))
    common = {"max_new_tokens": 6, "generation_config": False}
    options = {"seed": 1, **options}
    (found,) = session.generate(PROMPTS[0], **options, **common)
    assert session.statistics.async_decode.steps == 0
    assert glmc_runtime.load(toy_path).generate(PROMPTS[0], **options, **common) == [found]
    mixed = session.generate(PROMPTS[:2], options=[options, None], **common)
    assert mixed[0].tokens == found.tokens  # logprobs may differ in their last bits
    assert mixed[1].tokens == reference_greedy(PROMPTS[1], 6)[: len(mixed[1].tokens)]
    assert session.generate(PROMPTS[1], ignore_eos=True, **common)
    assert session.statistics.async_decode.steps > 0


def test_log_probabilities_of_greedy_tokens(session: Session) -> None:
    (found,) = session.generate(PROMPTS[0], max_new_tokens=4, ignore_eos=True, logprobs=2)
    tokens = [*PROMPTS[0], *found.tokens]
    assert found.logprobs is not None
    for place, entry in enumerate(found.logprobs):
        row = reference_logits(tokens[: len(PROMPTS[0]) + place]).log_softmax(-1)
        best = row.topk(2)
        assert (entry.token, entry.top[0][0]) == (found.tokens[place], found.tokens[place])
        assert [token for token, _ in entry.top] == best.indices.tolist()
        assert entry.logprob == pytest.approx(float(best.values[0]), abs=1e-4)
    (alone,) = session.generate(PROMPTS[0], max_new_tokens=1, ignore_eos=True, logprobs=0)
    assert alone.logprobs is not None and alone.logprobs[0].top == ()
    assert session.generate(PROMPTS[0], max_new_tokens=1)[0].logprobs is None


@pytest.mark.parametrize("kv_blocks", [None, 12, 9])
@pytest.mark.parametrize("number", [2, 7])
def test_answers_to_one_prompt_are_those_of_their_seeds(
    toy_path: Path, number: int, kv_blocks: int | None
) -> None:
    """More than the largest decode bucket, and short of blocks: the same tokens as one by one."""
    session = glmc_runtime.load(toy_path, kv_blocks=kv_blocks)
    prompts = [PROMPTS[0], PROMPTS[1]]
    expected = [
        glmc_runtime.load(toy_path).generate(prompt, **{**DRAWN, "seed": 4 + choice})[0]
        for prompt in prompts
        for choice in range(number)
    ]
    assert session.generate(prompts, n=number, **DRAWN) == expected
    assert len({tuple(completion.tokens) for completion in expected[:number]}) > 1
    assert session.cache.allocator.available == session.cache.allocator.usable
    events = list(session.stream(prompts, n=number, **DRAWN))
    for place, (prompt, choice) in enumerate((p, c) for p in range(2) for c in range(number)):
        mine = [event for event in events if (event.request, event.choice) == (prompt, choice)]
        assert [event.token for event in mine] == expected[place].tokens
        assert [event.finish_reason for event in mine] == [None] * 9 + ["length"]


def test_answers_share_the_prompt(session: Session) -> None:
    session.generate(PROMPTS[3], n=4, **DRAWN)
    rows = {key: counts.real_rows for key, counts in session.statistics.buckets.items()}
    assert sum(count for (phase, _), count in rows.items() if phase == "prefill") == 30
    assert sum(count for (phase, _), count in rows.items() if phase == "decode") == 4 * 9


def test_answers_that_are_left_early_give_their_blocks_back(session: Session) -> None:
    for turns in range(1, 12):
        with session.stream(PROMPTS[:3], n=3, **DRAWN) as stream:
            for _ in range(turns):
                next(stream)
            assert session.cache.allocator.available < session.cache.allocator.usable
        assert session.cache.allocator.available == session.cache.allocator.usable


def test_answers_that_end_at_once(session: Session) -> None:
    common = {"temperature": 1.0, "seed": 1, "n": 3, "ignore_eos": True}
    found = session.generate(PROMPTS[0], max_new_tokens=1, **common)
    assert [completion.finish_reason for completion in found] == ["length"] * 3
    found = session.generate([7] * MAX_CONTEXT, **common)
    assert [completion.finish_reason for completion in found] == ["context"] * 3
    assert session.cache.allocator.available == session.cache.allocator.usable


def test_seeds_of_answers_stay_in_range() -> None:
    settings = _settled(RequestOptions(temperature=1.0, n=3, seed=2**63 - 1))
    assert [settings.sampling_of(choice).seed for choice in range(2)] == [2**63 - 1, -(2**63)]
    unseeded = _settled(RequestOptions(temperature=1.0, n=2))
    assert unseeded.sampling_of(1).seed is None


def test_answers_without_a_seed_differ(session: Session) -> None:
    found = session.generate([1], n=8, temperature=2.0, max_new_tokens=12, ignore_eos=True)
    assert len({tuple(completion.tokens) for completion in found}) > 1
