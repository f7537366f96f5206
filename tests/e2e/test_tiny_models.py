"""The shipped models on real text: Hugging Face's greedy tokens.

In float32: logits rounded to bfloat16 have ties that the order of summation decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.build import PLACES, Builder, generated
from tests.e2e.reference import describe_difference, greedy, load_eager
from tests.support.thinned import thinned

pytestmark = pytest.mark.usefixtures("shared_captures")
MODELS = Path(__file__).parents[2] / "models"
COUNT = 48
TEXTS = (
    "Return",
    "Redistribution and use in source and binary forms, with or without modification,",
    "The function returns a new list with the items of the iterable in ascending order. ",
    "class Reader:\n    Read lines from a file and decode them",
    "module heapq\n\nHeap queue algorithm",
)


# The dense one is run below, and dense models on every place by test_same_answers.py.
@pytest.mark.parametrize(
    "name", thinned(["tiny-dense", "tiny-moe"], ["tiny-dense"], long=["tiny-moe"])
)
def test_greedy_texts_are_those_of_hugging_face(name: str, tmp_path: Path) -> None:
    model = load_eager(MODELS / name, torch.float32)
    builder = Builder(MODELS / name, tmp_path, block_size=32)
    prompts: list[list[int]] = []
    expected: list[list[int]] = []
    problems: list[str] = []
    for place in PLACES:
        session = builder.session(place, "float32", max_context=256)
        if not prompts:
            prompts = [session.text.encode(text) for text in TEXTS]
            expected = greedy(model, prompts, COUNT)
        assert [session.text.encode(text) for text in TEXTS] == prompts
        found = generated(session, prompts, COUNT)
        problems += [
            f"{place.name}: {describe_difference(model, prompt, one, two)}"
            for prompt, one, two in zip(prompts, expected, found, strict=True)
            if one != two
        ]
        assert session.text.decode(found[1]).strip()
    assert not problems, "\n".join(problems)


def test_text_goes_in_and_comes_out(tmp_path: Path) -> None:
    """With the tokenizer and ends of the checkpoint: the decoded text is Hugging Face's."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(MODELS / "tiny-dense")
    model = load_eager(MODELS / "tiny-dense", torch.float32)
    session = Builder(MODELS / "tiny-dense", tmp_path).session(
        PLACES[0], "float32", max_context=256
    )
    completions = session.generate(TEXTS[:2], max_new_tokens=24, ignore_eos=True)
    for text, completion in zip(TEXTS, completions, strict=False):
        ids = tokenizer(text)["input_ids"]
        (expected,) = greedy(model, [ids], 24)
        assert completion.text == tokenizer.decode(expected, skip_special_tokens=True)
