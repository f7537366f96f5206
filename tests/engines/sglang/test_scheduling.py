"""Pages of 16, mixed batches, a pool that is too small, requests that are retracted and go on,
and requests that nobody waits for: one start, tiny-dense."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.engines.sglang.support import Reference, counted, engine, prompts


@pytest.fixture(scope="module")
def dense(artifact: Callable[..., str]) -> Iterator[Any]:
    # SGLang's own switch to take requests back every so many steps; its processes read it.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SGLANG_TEST_RETRACT", "1")
        patch.setenv("SGLANG_TEST_RETRACT_INTERVAL", "7")
        with engine(
            "tiny-dense",
            artifact("tiny-dense"),
            page_size=16,
            chunked_prefill_size=64,
            enable_mixed_chunk=True,
            max_total_tokens=640,
        ) as started:
            yield started


def asked(tokens: int) -> dict[str, Any]:
    return {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}


def test_requests_that_are_taken_back_give_the_same_tokens(
    dense: Any, reference: Callable[[str], Reference]
) -> None:
    texts = prompts(12, 60)
    answers = dense.generate(input_ids=texts, sampling_params=asked(64))
    for text, answer in zip(texts, answers, strict=True):
        assert len(answer["output_ids"]) == 64
        assert reference("tiny-dense").first_difference(text, answer["output_ids"]) is None
    assert any(answer["meta_info"].get("num_retractions") for answer in answers)
    assert counted("steps") == counted("replays")


def test_requests_that_come_while_others_decode(
    dense: Any, reference: Callable[[str], Reference]
) -> None:
    texts = prompts(6, 90, seed=1)

    async def one(text: list[int], after: float) -> list[int]:
        await asyncio.sleep(after)
        answer = await dense.async_generate(input_ids=text, sampling_params=asked(40))
        tokens: list[int] = answer["output_ids"]
        return tokens

    async def all_of_them() -> list[list[int]]:
        return await asyncio.gather(*(one(text, 0.05 * place) for place, text in enumerate(texts)))

    for text, tokens in zip(texts, dense.loop.run_until_complete(all_of_them()), strict=True):
        assert reference("tiny-dense").first_difference(text, tokens) is None


def test_an_abort_in_mid_stream_frees_its_place(
    dense: Any, reference: Callable[[str], Reference]
) -> None:
    async def left_alone() -> int:
        stream = await dense.async_generate(
            input_ids=list(range(30)), sampling_params=asked(400), stream=True, rid="left"
        )
        seen = 0
        async for _ in stream:
            seen += 1
            if seen == 3:
                dense.tokenizer_manager.abort_request("left")
        return seen

    assert dense.loop.run_until_complete(left_alone()) < 400
    (text,) = prompts(1, 50, seed=2)
    answer = dense.generate(input_ids=text, sampling_params=asked(24))
    assert reference("tiny-dense").first_difference(text, answer["output_ids"]) is None
