"""Generation: streaming, ends, admission, preemption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import glmc_runtime
from glmc_runtime.engine.sampling import SamplingParameters
from glmc_runtime.engine.sequences import SequenceStep
from glmc_runtime.errors import CapacityError, PlanError, RequestError
from glmc_runtime.format.phases import PREFILL
from glmc_runtime.generate.generation_config import Defaults
from glmc_runtime.generate.session import Session
from glmc_runtime.replay.step import Step
from tests.runtime.toy import EOS, MAX_CONTEXT, reference_greedy

PROMPTS = [[3, 14, 15], [9, 2, 6, 5, 3, 5], [1], list(range(30)), [8, 9], [40, 41], [50]]


def test_greedy_tokens_match_plain_torch_beyond_the_largest_bucket(session: Session) -> None:
    completions = session.generate(PROMPTS, max_new_tokens=9, ignore_eos=True)
    assert [completion.tokens for completion in completions] == [
        reference_greedy(prompt, 9) for prompt in PROMPTS
    ]
    assert {completion.finish_reason for completion in completions} == {"length"}
    assert session.cache.allocator.available == session.cache.allocator.usable


def test_events_stream_in_order_and_end_once(session: Session) -> None:
    events = list(session.stream(PROMPTS[:3], max_new_tokens=4, ignore_eos=True))
    assert len(events) == 12
    for request in range(3):
        mine = [event for event in events if event.request == request]
        assert [event.token for event in mine] == reference_greedy(PROMPTS[request], 4)
        assert [event.finish_reason for event in mine] == [None] * 3 + ["length"]
    first_four = [event.request for event in events[:4]]
    assert first_four == [0, 1, 2, 0]  # a token of each before the second of any


def test_any_stop_id_ends_and_is_given_out(session: Session) -> None:
    tokens = reference_greedy(PROMPTS[0], 9)
    stop = tokens[4]
    first = tokens.index(stop)
    completion = session.generate([PROMPTS[0]], max_new_tokens=9, stop_token_ids=[stop, 61])[0]
    assert completion.tokens == tokens[: first + 1]
    assert completion.finish_reason == "stop"


@pytest.mark.parametrize("eos", EOS)
def test_each_eos_id_of_the_model_ends(session: Session, eos: int) -> None:
    # A prompt after which the toy says eos is found by search, so that the test can not go stale.
    for first in range(64):
        for second in range(64):
            if reference_greedy([first, second], 1) == [eos]:
                completion = session.generate([[first, second]])[0]
                assert (completion.tokens, completion.finish_reason) == ([eos], "stop")
                longer = session.generate([[first, second]], max_new_tokens=3, ignore_eos=True)[0]
                assert len(longer.tokens) == 3
                return
    pytest.fail("the toy never says this eos id")


def test_the_context_ends_a_request(session: Session) -> None:
    prompt = [7] * (MAX_CONTEXT - 2)
    completion = session.generate([prompt], max_new_tokens=50, ignore_eos=True)[0]
    assert completion.finish_reason == "context"
    assert completion.tokens == reference_greedy(prompt, 3)
    full = session.generate([[7] * MAX_CONTEXT], max_new_tokens=50, ignore_eos=True)[0]
    assert (len(full.tokens), full.finish_reason) == (1, "context")


def test_short_memory_puts_the_youngest_back_and_changes_no_token(toy_path: Path) -> None:
    session = glmc_runtime.load(toy_path, kv_blocks=10)
    prompts = PROMPTS[:3]
    completions = session.generate(prompts, max_new_tokens=20, ignore_eos=True)
    assert [completion.tokens for completion in completions] == [
        reference_greedy(prompt, 20) for prompt in prompts
    ]
    assert session.statistics.preempted > 0
    assert session.cache.allocator.available == 9


def test_preemption_does_not_disturb_a_seeded_request(toy_path: Path) -> None:
    sampling = [SamplingParameters(1.0, seed=seed) for seed in range(3)]
    roomy = glmc_runtime.load(toy_path).generate(
        PROMPTS[:3], max_new_tokens=20, sampling=sampling, ignore_eos=True
    )
    tight = glmc_runtime.load(toy_path, kv_blocks=10)
    assert (
        tight.generate(PROMPTS[:3], max_new_tokens=20, sampling=sampling, ignore_eos=True) == roomy
    )
    assert tight.statistics.preempted > 0


def test_a_seeded_request_is_the_same_alone_and_in_any_batch(session: Session) -> None:
    sampling = SamplingParameters(temperature=1.3, top_k=40, top_p=0.95, seed=11)
    alone = session.generate([PROMPTS[1]], max_new_tokens=10, sampling=sampling)[0]
    batch = session.generate(PROMPTS, max_new_tokens=10, sampling=sampling)
    assert batch[1] == alone
    greedy = SamplingParameters()
    mixed = session.generate(
        PROMPTS[:3], max_new_tokens=10, sampling=[greedy, sampling, greedy], ignore_eos=True
    )
    assert mixed[0].tokens == reference_greedy(PROMPTS[0], 10)
    assert mixed[1].tokens[: len(alone.tokens)] == alone.tokens


def test_a_length_that_only_the_file_says_is_cut_to_the_cache(toy_path: Path) -> None:
    session = glmc_runtime.load(toy_path, kv_blocks=3)
    file = Defaults(max_length=128000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(session), "_defaults_of", lambda self, wanted: file)
        (completion,) = session.generate([[1, 2, 3]], ignore_eos=True)
        assert completion.finish_reason == "length"
        assert len(completion.tokens) + 2 == 2 * session.manifest.cache.block_size
        with pytest.raises(CapacityError, match="more KV blocks than the cache has"):
            session.generate([[1, 2, 3]], ignore_eos=True, max_new_tokens=100)


def test_a_request_that_never_fits_is_refused_before_the_first_token(toy_path: Path) -> None:
    session = glmc_runtime.load(toy_path, kv_blocks=4)
    with pytest.raises(CapacityError) as caught:
        session.stream([[1] * 10], max_new_tokens=20)
    assert "8 blocks for 29 tokens" in str(caught.value)
    assert "3 blocks in all" in str(caught.value)


def test_blocks_held_by_the_caller_end_in_an_error_not_a_loop(toy_path: Path) -> None:
    session = glmc_runtime.load(toy_path, kv_blocks=6)
    mine = session.sequence([1] * 16)
    session.prefill([mine])
    with pytest.raises(CapacityError, match="held by other sequences"):
        session.generate([[2, 3, 4]], max_new_tokens=10, ignore_eos=True)
    session.release(mine)
    assert session.cache.allocator.available == 5


def test_a_failing_prefill_gives_the_blocks_back(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(step: Step) -> None:
        raise PlanError("boom")

    monkeypatch.setattr(session._replays[PREFILL.key], "run", fail)
    with pytest.raises(PlanError, match="boom"):
        session.generate(PROMPTS)
    assert session.cache.allocator.available == session.cache.allocator.usable


def test_leaving_the_stream_gives_the_blocks_back(session: Session) -> None:
    stream = session.stream(PROMPTS, max_new_tokens=9, ignore_eos=True)
    next(stream)
    assert session.cache.allocator.available < session.cache.allocator.usable
    stream.close()  # type: ignore[attr-defined]
    assert session.cache.allocator.available == session.cache.allocator.usable


def test_requests_are_checked_when_stream_is_called(session: Session) -> None:
    with pytest.raises(RequestError, match="empty"):
        session.stream([[]])
    with pytest.raises(RequestError, match="max_new_tokens"):
        session.stream([[1]], max_new_tokens=0)
    with pytest.raises(RequestError, match="number of sampling"):
        session.stream([[1]], sampling=[])
    with pytest.raises(RequestError, match="no tokenizer"):
        session.stream(["text"])
    assert session.generate([]) == []


LONG = list(range(5, 55))


def test_a_long_prompt_does_not_hold_up_running_texts(session: Session) -> None:
    """The first text writes on while 50 tokens of prompt are computed, 15 beside each token."""
    events = list(session.stream([[3, 14], LONG], max_new_tokens=9, ignore_eos=True))
    first = next(place for place, event in enumerate(events) if event.request == 1)
    assert [event.request for event in events[:first]] == [0] * 4
    for request, prompt in enumerate(([3, 14], LONG)):
        tokens = [event.token for event in events if event.request == request]
        assert tokens == reference_greedy(prompt, 9)
    prefill = {key: item for key, item in session.statistics.buckets.items() if key[0] != "decode"}
    assert {key: item.steps for key, item in prefill.items()} == {
        ("prefill", 16): 3,
        ("prefill", 8): 1,
    }


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_the_tokens_of_prompts_between_two_tokens_of_a_text_are_bounded(
    session: Session, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    chunks: list[int] = []
    step = session.step

    def watch(parts: list[SequenceStep]) -> torch.Tensor:
        chunks.append(sum(part.compute for part in parts if part.compute is not None))
        return step(parts)

    monkeypatch.setattr(session, "step", watch)
    prompts = [*PROMPTS, LONG]
    completions = session.generate(prompts, max_new_tokens=5, ignore_eos=True, prefill_tokens=limit)
    assert [item.tokens for item in completions] == [reference_greedy(p, 5) for p in prompts]
    assert max(chunks) == min(limit, 16)
    assert sum(chunks) == sum(map(len, prompts))


def test_a_prompt_that_is_put_back_half_way_keeps_its_tokens(toy_path: Path) -> None:
    session = glmc_runtime.load(toy_path, kv_blocks=17)
    prompts = [[3, 14, 15], [1, 2], LONG[:40]]
    completions = session.generate(prompts, max_new_tokens=18, ignore_eos=True, prefill_tokens=2)
    assert [item.tokens for item in completions] == [reference_greedy(p, 18) for p in prompts]
    assert session.statistics.preempted > 0
    assert session.cache.allocator.available == 16


def test_a_bound_on_prompts_is_checked(session: Session) -> None:
    with pytest.raises(RequestError, match="prefill_tokens"):
        session.stream([[1]], prefill_tokens=0)
