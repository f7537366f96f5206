"""Arguments by kind: what is plainly meant is taken, anything else is refused with a code."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import glmc_runtime
from glmc_runtime.arguments import flag, integer, path, prompts_of, real, shown, texts, token_ids
from glmc_runtime.engine.sampling import SamplingParameters
from glmc_runtime.engine.sequences import SequenceStep
from glmc_runtime.errors import RequestError
from glmc_runtime.generate.session import Session
from tests.runtime.toy import reference_greedy

IDS = [3, 14, 15]
NO_INTEGERS: list[Any] = [
    True,
    1.0,
    1.7,
    math.nan,
    "1",
    b"1",
    None,
    [1],
    1j,
    Decimal(1),
    Fraction(1),
    np.True_,
    np.float32(1),
    np.array([1]),
    torch.tensor(1.0),
    torch.tensor(True),
    torch.tensor([1]),
]
INTEGERS = [1, np.int8(1), np.uint64(1), np.array(1), torch.tensor(1), torch.tensor(1).int()]
SOME_IDS: list[Any] = [
    tuple(IDS),
    np.array(IDS),
    np.array(IDS, dtype=np.uint8),
    torch.tensor(IDS),
    torch.tensor(IDS, dtype=torch.int32),
    array("q", IDS),
    list(np.array(IDS)),
    [torch.tensor(3), np.int16(14), 15],
    [3.0, 14.0, 15.0],
]
NO_IDS: list[Any] = [
    bytes(IDS),
    bytearray(IDS),
    memoryview(bytes(IDS)),
    [3, True],
    [3, 1.7],
    [3, "4"],
    [3, None],
    [3, b"4"],
    [[3, 4], 5],
    np.array([3, 1.5]),
    np.array([True, False]),
    torch.tensor([3.5]),
    torch.tensor([True]),
    torch.tensor(3),
    np.array(3),
    torch.tensor([[3, 4]]),
    torch.zeros(3, dtype=torch.int64, device="meta"),
    torch.tensor([3, 0, 4]).to_sparse(),
    {3, 4},
    {3: 4},
    None,
    3,
    object(),
]


@pytest.mark.parametrize("value", INTEGERS, ids=repr)
def test_an_integer_of_any_library_is_one(value: object) -> None:
    found = integer("number", value)
    assert found == 1 and type(found) is int


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_what_is_no_integer_is_refused_by_name(value: object) -> None:
    with pytest.raises(RequestError, match="number is no integer") as caught:
        integer("number", value)
    assert caught.value.found == shown(value)


def test_integers_have_bounds_and_any_size() -> None:
    for value in (0, 3, -(10**5000), 10**5000):
        with pytest.raises(RequestError, match="out of range"):
            integer("number", value, least=1, most=2)
    assert integer("number", 10**5000) == 10**5000


@pytest.mark.parametrize("value", [1, 1.0, np.float16(1), np.int8(1), torch.tensor(1.0)], ids=repr)
def test_a_real_number_of_any_library_is_one(value: object) -> None:
    found = real("number", value)
    assert found == 1.0 and type(found) is float


@pytest.mark.parametrize(
    "value",
    [True, "1", None, math.nan, math.inf, 10**400, 1j, np.nan, torch.tensor(True), [1.0]],
    ids=shown,
)
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(RequestError, match="no finite number"):
        real("number", value)


@pytest.mark.parametrize("value", [0, 1, "no", None, np.int64(1), [], torch.tensor(1)], ids=repr)
def test_what_is_no_truth_value_is_refused(value: object) -> None:
    with pytest.raises(RequestError, match="neither True nor False"):
        flag("switch", value)
    assert flag("switch", np.True_) is True and flag("switch", torch.tensor(False)) is False


def test_texts_and_paths() -> None:
    assert texts("stop", "ab") == ("ab",) and texts("stop", ["a", "b"]) == ("a", "b")
    assert path("place", Path("a/b")) == path("place", "a/b") == "a/b"
    for value in (b"a", 3, None, ["a", 3], {"a": 1}):
        with pytest.raises(RequestError):
            texts("stop", value)
    for value in (b"a", 3, None, "a\0b", ["a"]):
        with pytest.raises(RequestError, match="no path"):
            path("place", value)


@pytest.mark.parametrize("value", SOME_IDS, ids=repr)
def test_ids_in_any_list_are_a_prompt_with_or_without_a_list_around(value: Any) -> None:
    for found in (token_ids("ids", value), *prompts_of(value), *prompts_of([value])):
        assert found == IDS and {type(token) for token in found} == {int}


@pytest.mark.parametrize("value", NO_IDS, ids=lambda value: type(value).__name__)
def test_what_are_no_ids_are_refused(value: Any, session: Session) -> None:
    for action in (
        lambda: token_ids("ids", value),
        lambda: session.sequence(value),
        lambda: session.generate([value, [1]]),
        lambda: session.step([SequenceStep(session.sequence([1]), value)]),
    ):
        with pytest.raises(RequestError):
            action()


def test_prompts_of_all_forms() -> None:
    assert prompts_of("abc") == ["abc"]
    assert prompts_of(["abc", "d"]) == prompts_of(iter(["abc", "d"])) == ["abc", "d"]
    assert prompts_of(range(3)) == prompts_of(iter([0, 1, 2])) == [[0, 1, 2]]
    assert prompts_of(torch.tensor([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]
    assert prompts_of(["a", np.array([1])]) == ["a", [1]]
    assert prompts_of([]) == []
    for wrong in (b"abc", [b"abc"], {"a": 1}, [1, "a"], [1, [2]], None, 3, [None], {"a"}, [1.5]):
        with pytest.raises(RequestError):
            prompts_of(wrong)
    with pytest.raises(RequestError, match="mapping") as caught:
        prompts_of([{"role": "user", "content": "a"}])
    assert "encode_chat" in caught.value.remedy


def test_a_lone_prompt_is_one_request(session: Session) -> None:
    expected = reference_greedy(IDS, 4)
    for prompts in (IDS, [IDS], torch.tensor(IDS), np.array([IDS]), tuple(IDS)):
        found = session.generate(prompts, max_new_tokens=4, ignore_eos=True)
        assert [completion.tokens for completion in found] == [expected]


def _decoded(session: Session) -> Any:
    sequence = session.sequence([1])
    session.prefill([sequence])
    return sequence


WRONG: dict[str, Callable[[Session], object]] = {
    "step of a sequence": lambda session: session.step([session.sequence([1])]),  # type: ignore[list-item]
    "step of None": lambda session: session.step(None),  # type: ignore[arg-type]
    "step of a sequence of None": lambda session: session.step([SequenceStep(None)]),  # type: ignore[arg-type]
    "compute": lambda session: session.step([SequenceStep(session.sequence([1, 2]), compute=1.7)]),  # type: ignore[arg-type]
    "compute a truth": lambda session: session.step(
        [SequenceStep(session.sequence([1, 2]), compute=True)]
    ),
    "logits": lambda session: session.step([SequenceStep(session.sequence([1]), logits=1.0)]),  # type: ignore[arg-type]
    "prefill": lambda session: session.prefill([[1, 2]]),  # type: ignore[list-item]
    "decode a text": lambda session: session.decode([_decoded(session)], "5"),  # type: ignore[arg-type]
    "decode a fraction": lambda session: session.decode([_decoded(session)], [1.5]),  # type: ignore[list-item]
    "decode a truth": lambda session: session.decode([_decoded(session)], [True]),
    "fork": lambda session: session.fork([1]),  # type: ignore[arg-type]
    "release": lambda session: session.release(None),  # type: ignore[arg-type]
    "truncate a list": lambda session: session.truncate([1], 0),  # type: ignore[arg-type]
    "truncate by a fraction": lambda session: session.truncate(_decoded(session), 0.5),  # type: ignore[arg-type]
    "truncate by a truth": lambda session: session.truncate(_decoded(session), True),
    "truncate by a text": lambda session: session.truncate(_decoded(session), "0"),  # type: ignore[arg-type]
    "a token by hand": lambda session: _by_hand(session, 1.5),
    "a truth by hand": lambda session: _by_hand(session, True),
    "prefill_tokens": lambda session: session.stream([1], prefill_tokens=2.5),  # type: ignore[arg-type]
    "generation_config": lambda session: session.stream([1], generation_config=1),  # type: ignore[arg-type]
    "sampling": lambda session: session.stream([1], sampling=0.7),  # type: ignore[arg-type]
    "samplings": lambda session: session.stream([1], sampling=[0.7]),  # type: ignore[list-item]
    "options": lambda session: session.stream([1], options="greedy"),  # type: ignore[arg-type]
}


def _by_hand(session: Session, token: Any) -> object:
    sequence = session.sequence([1])
    sequence.tokens.append(token)
    return session.prefill([sequence])


@pytest.mark.parametrize("name", WRONG)
def test_a_session_refuses_wrong_kinds_and_goes_on(session: Session, name: str) -> None:
    with pytest.raises(RequestError) as caught:
        WRONG[name](session)
    assert caught.value.found
    assert session.generate(IDS, max_new_tokens=3, ignore_eos=True)[0].tokens == (
        reference_greedy(IDS, 3)
    )


def test_a_session_takes_numbers_of_other_libraries(session: Session) -> None:
    one, two = session.sequence(np.array([1, 2])), session.sequence(torch.tensor([3]))
    best = session.prefill([one, two]).argmax(-1)
    logits = session.decode((one, two), best)
    assert logits.shape[0] == 2 and one.tokens[-1] == int(best[0])
    assert {type(token) for token in [*one.tokens, *two.tokens]} == {int}
    session.truncate(one, np.int64(1))  # type: ignore[arg-type]
    assert one.tokens == [1]
    lone = session.sequence([1])
    assert session.prefill(lone).shape[0] == 1  # type: ignore[arg-type]
    assert session.step(SequenceStep(lone, torch.tensor([5]), logits=np.int8(1))).shape[0] == 1  # type: ignore[arg-type]
    assert lone.tokens == [1, 5]


@pytest.mark.parametrize(
    "options",
    [
        {name: value}
        for name in ("kv_blocks", "kv_memory_bytes", "guard_steps")
        for value in (True, 1.7, 64.0, "64", [64])
    ]
    + [{name: 1} for name in ("emulate", "timing", "verify_hashes", "profile_ranges", "device")]
    + [{"progress": 3}, {"weights": [1]}, {"weights": {"head": [1.0]}}, {"device": b"cpu"}],
    ids=repr,
)
def test_loading_refuses_wrong_kinds(toy_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        glmc_runtime.load(toy_path, **options)


def test_loading_takes_what_is_plainly_meant(toy_path: Path) -> None:
    session = glmc_runtime.load(
        str(toy_path), kv_blocks=np.int64(9), timing=np.False_, device=torch.device("cpu")
    )
    assert session.cache.allocator.usable == 8
    for wrong in (bytes(toy_path), 3, None):
        with pytest.raises(RequestError, match="path"):
            glmc_runtime.load(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": True},
        {"temperature": "0.5"},
        {"top_k": 1.7},
        {"top_k": True},
        {"top_p": None},
        {"seed": 1.0},
        {"seed": "1"},
        {"logit_bias": [(1, 2.0)]},
        {"logit_bias": {1.5: 2.0}},
        {"logit_bias": {True: 2.0}},
        {"logit_bias": {1: math.nan}},
        {"bad_words_ids": [3]},
        {"bad_words_ids": [[]]},
        {"suppress_tokens": b"ab"},
    ],
    ids=repr,
)
def test_sampling_refuses_wrong_kinds(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        SamplingParameters(**options)


def test_sampling_takes_numbers_of_other_libraries() -> None:
    found = SamplingParameters(
        np.float32(0.5), torch.tensor(4), seed=np.int64(3), logit_bias={"7": 1}
    )
    assert found == SamplingParameters(0.5, 4, seed=3, logit_bias={7: 1.0})
