"""A sequence that goes on: nothing cached is computed again, and its blocks stay its own."""

from __future__ import annotations

import pytest

from glmc_runtime.engine.sequences import Sequence
from glmc_runtime.errors import CapacityError, GlmcError, RequestError
from glmc_runtime.generate.session import Session
from tests.runtime.toy import MAX_CONTEXT, reference_greedy

OPTIONS = {"max_new_tokens": 5, "ignore_eos": True}


@pytest.fixture(params=["session", "ahead"])
def engine(request: pytest.FixtureRequest) -> Session:
    """Step by step, and a step ahead of the host."""
    session: Session = request.getfixturevalue(request.param)
    return session


def computed(session: Session) -> int:
    """Tokens that were computed so far, padding left out."""
    counts = session.statistics.buckets.values()
    return sum(each.real_rows for each in counts)


def test_the_answer_is_a_part_of_the_sequence(engine: Session) -> None:
    free = engine.cache.allocator.available
    sequence = Sequence([])
    prompt: list[int] = []
    for tokens in ([3, 14, 15], [9, 2], [6]):
        prompt += tokens
        before = computed(engine) - sequence.cached
        # Its newest token is a part of the next prompt, as nobody has computed it yet.
        events = list(engine.resume(sequence, prompt[len(sequence) :], **OPTIONS))
        answer = reference_greedy(prompt, 5)
        assert [event.token for event in events] == answer
        assert events[-1].finish_reason == "length"
        prompt += answer
        assert sequence.tokens == prompt[:-1] and sequence.cached == len(prompt) - 1
        # At most a step that was ahead and is thrown away is more than what is cached now.
        assert computed(engine) - sequence.cached - before in (0, 1)
    assert engine.cache.allocator.available < free
    engine.release(sequence)
    assert engine.cache.allocator.available == free


def test_an_answer_that_was_left_can_be_gone_on_from(engine: Session) -> None:
    sequence = Sequence([])
    with engine.resume(sequence, [3, 14, 15], **OPTIONS) as stream:
        begun = [next(stream).token for _ in range(3)]
    assert begun == reference_greedy([3, 14, 15], 3)
    assert sequence.blocks and sequence.cached == len(sequence)
    prompt = [3, 14, 15, *begun, 7]
    events = engine.resume(sequence, prompt[len(sequence) :], **OPTIONS)
    assert [event.token for event in events] == reference_greedy(prompt, 5)


@pytest.mark.parametrize(
    ("tokens", "options", "kind"),
    [
        ([], {}, RequestError),
        ([99], {}, RequestError),
        ([1] * MAX_CONTEXT, {}, RequestError),
        ([1], {"n": 2, "temperature": 1.0}, RequestError),
        ([1], {"max_new_tokens": 0}, RequestError),
        ("text", {}, RequestError),
    ],
)
def test_what_is_refused_leaves_the_sequence_as_it_was(
    session: Session, tokens: list[int], options: dict[str, object], kind: type[GlmcError]
) -> None:
    sequence = Sequence([])
    list(session.resume(sequence, [3, 14], **OPTIONS))
    before = list(sequence.tokens), list(sequence.blocks), sequence.cached
    with pytest.raises(kind):
        session.resume(sequence, tokens, **options)  # type: ignore[arg-type]
    assert (sequence.tokens, sequence.blocks, sequence.cached) == before


def test_more_than_the_cache_holds_is_refused(toy_path: object) -> None:
    import glmc_runtime

    small = glmc_runtime.load(str(toy_path), kv_blocks=3)
    sequence = Sequence([])
    with pytest.raises(CapacityError):
        small.resume(sequence, [1] * 20, max_new_tokens=30)
    assert sequence.tokens == [] and sequence.blocks == []
