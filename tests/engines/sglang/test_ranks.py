"""Two tensor-parallel ranks over SGLang's own group, which is gloo's here."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.engines.sglang.support import Reference, counted, engine, prompts


@pytest.mark.parametrize(
    ("model", "compiled", "served"),
    [
        ("tiny-dense", [], {}),
        ("tiny-moe", ["--expert-parallel"], {"ep_size": 2}),
    ],
)
def test_two_ranks_give_the_same_tokens(
    artifact: Callable[..., str],
    reference: Callable[[str], Reference],
    model: str,
    compiled: list[str],
    served: dict[str, int],
) -> None:
    path = artifact(model, "--tensor-parallel", "2", *compiled)
    texts = prompts(4, 40)
    asked = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}
    with engine(model, path, tp_size=2, chunked_prefill_size=32, **served) as started:
        answers = started.generate(input_ids=texts, sampling_params=asked)
        for rank in (0, 1):
            assert counted("steps", rank) == counted("replays", rank) > 16
    for text, answer in zip(texts, answers, strict=True):
        assert reference(model).first_difference(text, answer["output_ids"]) is None
