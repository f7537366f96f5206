"""Stop strings: over tokens and characters, in streams, beside other ends."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import glmc_runtime
from glmc_runtime.errors import RequestError
from glmc_runtime.generate.options import RequestOptions
from glmc_runtime.generate.session import Session
from glmc_runtime.generate.stop_strings import StopStrings
from tests.runtime.toy import reference_greedy, write_toy

PROMPTS = [[3, 14, 15], [9, 2, 6], [1], [8, 9]]
LENGTH = 24


def _cut(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """The text before the stop string that is complete first, found letter by letter."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


@pytest.mark.parametrize("seed", range(30))
def test_however_a_text_is_cut_into_tokens_it_stops_at_the_same_place(seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(60):
        text = "".join(choose.choices("ab\n你", k=choose.randrange(25)))
        stops = tuple(
            "".join(choose.choices("ab\n你", k=choose.randrange(1, 5)))
            for _ in range(choose.randrange(1, 4))
        )
        expected, stop = _cut(text, stops)
        for included in (False, True):
            stream, given, place = StopStrings(stops, {}, included), "", 0
            while place < len(text) and stream.found is None:
                step = choose.randrange(1, 4)
                given += stream.feed(0, text[place : place + step])
                place += step
                # Nothing is given out that a stop string takes back, and nothing held needlessly.
                assert (expected + (stop or "") * included).startswith(given)
                held = text[len(given) : place]
                if stream.found is None and held:
                    assert any(one.startswith(held) for one in stops)
            if stream.found is None:
                given += stream.finish("")
            assert stream.found == stop
            assert given == expected + (stop or "") * included


def test_special_tokens_stop_as_they_are_spelled_and_are_never_text() -> None:
    special = {7: "<|user|>"}
    alone = StopStrings(("<|user|>",), special)
    assert [alone.feed(1, "a"), alone.feed(7, ""), alone.found] == ["a", "", "<|user|>"]
    mixed = StopStrings(("x\n<|user|>\n",), special)
    assert mixed.feed(1, "yx\n") == "y"
    assert mixed.feed(7, "") == "" and mixed.found is None
    assert mixed.feed(2, "z") == "x\nz"  # the token is left out, as in any text
    assert mixed.feed(1, "x\n") + mixed.feed(7, "") + mixed.feed(2, "\nw") == ""
    assert mixed.found == "x\n<|user|>\n"


@pytest.fixture(params=[False, True], ids=["plain", "greedy plans"])
def worded(request: pytest.FixtureRequest, tmp_path: Path) -> Session:
    """The toy with letters for its tokens, and two halves of one character."""
    tokenizers = pytest.importorskip("tokenizers")
    root = tmp_path / "toy"
    (root / "tokenizer").mkdir(parents=True)
    words = {chr(ord("a") + number % 26) * (1 + number // 26): number for number in range(62)}
    words |= {"<0xC3>": 62, "<0xA9>": 63}
    model = tokenizers.models.BPE(words, [], byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    tokenizer.save(str(root / "tokenizer" / "tokenizer.json"))
    return glmc_runtime.load(write_toy(root, greedy=request.param), kv_blocks=40)


def _text(session: Session, tokens: list[int]) -> str:
    return session.text.decode(tokens)


def test_an_answer_ends_before_a_stop_string_over_tokens(worded: Session) -> None:
    tokens = reference_greedy(PROMPTS[0], LENGTH)
    free = _text(worded, tokens)
    assert len(free) > LENGTH
    for start in range(3, len(free) - 4, 5):
        stop = free[start : start + 4]
        expected, _ = _cut(free, (stop,))
        for prompt in (PROMPTS[:1], PROMPTS):
            done = worded.generate(
                prompt, max_new_tokens=LENGTH, ignore_eos=True, stop=[stop, "no such text"]
            )[0]
            assert (done.text, done.finish_reason, done.stop_reason) == (expected, "stop", stop)
            assert done.tokens == tokens[: len(done.tokens)]
            assert stop in _text(worded, done.tokens)
            assert stop not in _text(worded, done.tokens[:-1])
    assert worded.cache.allocator.available == worded.cache.allocator.usable


def test_a_stream_holds_back_what_may_become_a_stop_string(worded: Session) -> None:
    tokens = reference_greedy(PROMPTS[0], LENGTH)
    free = _text(worded, tokens)
    stop = free[8:12] + "never"
    given = ""
    events = worded.stream(PROMPTS[0], max_new_tokens=LENGTH, ignore_eos=True, stop=stop)
    for number, event in enumerate(events, 1):
        given += event.text
        whole = _text(worded, tokens[:number])
        held = whole[len(given) :]
        if event.finish_reason is None:
            assert whole.startswith(given) and stop.startswith(held)
    assert given == free
    assert (event.finish_reason, event.stop_reason) == ("length", None)


def test_stop_strings_beside_other_ends(worded: Session) -> None:
    tokens = reference_greedy(PROMPTS[0], LENGTH)
    last = _text(worded, tokens)[-2:]
    options = {"max_new_tokens": LENGTH, "ignore_eos": True}
    both = worded.generate(PROMPTS[0], stop=_text(worded, tokens)[-9:], **options)[0]
    assert (both.finish_reason, len(both.tokens)) == ("stop", LENGTH)
    by_id = worded.generate(PROMPTS[0], stop_token_ids=[tokens[5]], stop="???", **options)[0]
    assert (by_id.finish_reason, by_id.stop_reason) == ("stop", tokens[5])
    assert by_id.text == _text(worded, by_id.tokens)
    kept = worded.generate(PROMPTS[0], stop=last, include_stop_str_in_output=True, **options)[0]
    assert kept.text.endswith(last) and kept.stop_reason == last


def test_each_request_has_its_own(worded: Session) -> None:
    texts = [_text(worded, reference_greedy(prompt, LENGTH)) for prompt in PROMPTS]
    options = [RequestOptions(stop=text[5 + n : 8 + n]) for n, text in enumerate(texts[:3])]
    found = worded.generate(
        PROMPTS, options=[*options, None], max_new_tokens=LENGTH, ignore_eos=True
    )
    for text, own, completion in zip(texts, options, found, strict=False):
        assert own.stop is not None
        assert completion.text == _cut(text, tuple(own.stop))[0]
    assert found[3].text == texts[3] and found[3].finish_reason == "length"


def test_each_of_several_answers_stops_for_itself(worded: Session) -> None:
    drawn = {"n": 5, "temperature": 1.5, "seed": 2, "ignore_eos": True, "max_new_tokens": LENGTH}
    free = worded.generate(PROMPTS[:2], **drawn)
    stops = (free[0].text[6:9], free[3].text[10:13], free[7].text[3:5])
    found = worded.generate(PROMPTS[:2], stop=stops, **drawn)
    cuts = [_cut(completion.text, stops) for completion in free]
    assert [(one.text, one.stop_reason) for one in found] == cuts
    assert len({stop for _, stop in cuts}) > 1
    given = dict.fromkeys([(prompt, choice) for prompt in range(2) for choice in range(5)], "")
    for event in worded.stream(PROMPTS[:2], stop=stops, **drawn):
        given[event.request, event.choice] += event.text
    assert list(given.values()) == [text for text, _ in cuts]
    assert worded.cache.allocator.available == worded.cache.allocator.usable


def test_a_stop_string_does_not_keep_greedy_texts_from_async_decode(worded: Session) -> None:
    worded.generate(PROMPTS[0], max_new_tokens=LENGTH, ignore_eos=True, stop="never")
    assert (worded.statistics.async_decode.steps > 0) == worded.greedy


def test_what_can_not_be_a_stop_string(worded: Session, session: Session) -> None:
    for wrong in ("", ["a", ""], b"a", [3], 3, {"a": 1}):
        with pytest.raises(RequestError):
            worded.stream(PROMPTS, stop=wrong)
    with pytest.raises(RequestError, match="tokenizer"):
        session.stream(PROMPTS, stop="a")
