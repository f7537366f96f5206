"""docs/serving.md: its command and both programs run as they are, and do what the page says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmc_runtime.errors import CapacityError
from tests.docs.markdown import ROOT, blocks
from tests.docs.pages import shown_commands

PAGE = ROOT / "docs" / "serving.md"


@pytest.fixture(scope="module")
def scope(tiny_dense: Path) -> dict[str, Any]:
    """The variables of the page's programs after they have run, one after the other."""
    scope: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tiny_dense.parent.parent)
        for block in blocks(PAGE, "python"):
            exec(compile(block.text, str(PAGE), "exec"), scope)
    return scope


def test_the_loop_answers_as_generate_does(scope: dict[str, Any]) -> None:
    engine = scope["engine"]
    prompts = ["The source code for a work means", "For example,", "The source code"]
    answers = engine.generate(prompts, max_new_tokens=16)
    assert sorted(scope["texts"]) == sorted(answer.text for answer in answers)
    assert all(scope["texts"])


def test_a_draft_that_is_truncated_changes_no_answer(scope: dict[str, Any]) -> None:
    engine, prompt = scope["engine"], scope["prompt"]
    (answer,) = engine.generate("You may not", max_new_tokens=8)
    said = prompt.tokens[len(engine.text.encode("You may not")) :]
    assert [*said, scope["newest"]] == answer.tokens[: len(said) + 1]
    assert 0 < scope["right"] < len(scope["draft"])  # the page shows both cases


def test_what_is_released_is_free(scope: dict[str, Any]) -> None:
    engine, prompt = scope["engine"], scope["prompt"]
    free = engine.cache.allocator
    assert free.available + len(prompt.blocks) == free.usable
    assert scope["twin"].tokens[-1] == scope["second"] != scope["first"]


def test_a_step_that_lacks_blocks_changes_nothing(scope: dict[str, Any]) -> None:
    engine, step = scope["engine"], scope["SequenceStep"]
    allocator = engine.cache.allocator
    taken = allocator.allocate(allocator.available)
    sequence = engine.sequence([1, 2, 3])
    with pytest.raises(CapacityError):
        engine.step([step(sequence)])
    assert (sequence.cached, sequence.blocks) == (0, [])
    allocator.free(taken)
    engine.step([step(sequence)])
    engine.release(sequence)


def test_the_loop_is_some_twenty_lines() -> None:
    loop = blocks(PAGE, "python")[0].lines
    assert len([line for line in loop if line.strip()]) <= 24
    assert len(shown_commands(PAGE)) == 1  # run by the fixture tiny_dense
