"""A row has a fault for each thing that must have happened and has not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.e2e.judge import Outcome
from tests.engines.equality.report import NOTHING, UNABLE, Row
from tests.engines.equality.result import Result, Subject
from tests.engines.equality.traffic import CONTEXT, LENGTHS, POOL, SEQUENCES, SHARED, prompts

RIGHT = Outcome(64, 4096, 0, 0)
COUNTS = {"serves": 1, "steps": 9, "replays": 9, "decode 1": 2, "decode 4": 3, "prefill 16": 4}
ENGINE = {"steps": 9, "preemptions": 2, "cached": 32, "parameters": 0}
ROW = Row(
    Subject("a", "", "", [[4] * 40], 64),
    Result("a", [], [], ENGINE, COUNTS),
    Result("a", [], [], ENGINE),
    RIGHT,
    RIGHT,
    RIGHT,
)


def counted(**values: int) -> Row:
    return replace(ROW, ours=replace(ROW.ours, ours=COUNTS | values))


def engine(**values: int) -> Row:
    return replace(ROW, ours=replace(ROW.ours, engine=ENGINE | values))


def test_a_row_without_faults() -> None:
    assert ROW.faults == []
    assert "9 steps, 9 replays (decode 1: 2, decode 4: 3, prefill 16: 4)" in str(ROW)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (replace(ROW, hugging_face=Outcome(64, 4096, 0, 1)), "1 tokens are not those of Hugging"),
        (replace(ROW, without=Outcome(64, 4096, 0, 2)), "2 tokens are not those of the engine"),
        (replace(ROW, without=Outcome(64, 2000, 2096, 0)), "hardly anything is compared"),
        (replace(ROW, ours=replace(ROW.ours, error="no")), "with plans: no"),
        (replace(ROW, theirs=replace(ROW.theirs, error="no")), "without plans: no"),
        (replace(ROW, hugging_face=NOTHING), "nothing is compared with Hugging"),
        (replace(ROW, without=NOTHING), "nothing is compared with the engine"),
        (counted(serves=0), "does not serve"),
        (counted(replays=8), "8 replays in 9 steps"),
        (counted(**{"decode 4": 0}), "few buckets"),
        (engine(steps=10), "9 steps of plans in 10 of the engine"),
        (engine(parameters=7), "have parameters"),
        (engine(preemptions=0), "nothing was preempted"),
        (engine(cached=0), "no prefix"),
        (replace(ROW, subject=replace(ROW.subject, texts=[[4]])), "no prompt came in chunks"),
    ],
)
def test_each_fault_has_words(row: Row, fault: str) -> None:
    assert [found for found in row.faults if fault in found]


def test_an_engine_that_has_no_class_of_its_own_is_not_compared_with() -> None:
    row = replace(ROW, theirs=replace(ROW.theirs, error=f"Error: {UNABLE[0]}"), without=NOTHING)
    assert row.faults == []
    assert UNABLE[0] in str(row)
    row = replace(row, hugging_face=replace(RIGHT, differing=1))
    assert "not those of Hugging Face" in row.faults[0]


def test_prompts_share_prefixes_and_do_not_fit_the_pool_at_once() -> None:
    texts = prompts(200)
    assert {tuple(text[:SHARED]) for text in texts if len(text) > SHARED} != set()
    shared = max(
        sum(text[:SHARED] == other[:SHARED] for other in texts) for text in texts if len(text) > 33
    )
    assert shared >= len(texts) // 2
    assert max(map(len, texts)) <= max(LENGTHS)
    assert max(map(len, texts)) + 64 < CONTEXT
    assert SEQUENCES * (min(map(len, texts)) + 64) > POOL
