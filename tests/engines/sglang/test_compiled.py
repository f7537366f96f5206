"""No artifact is named: a plan is compiled when the server starts, over its loader's weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.engines.sglang.server import serving
from tests.engines.sglang.support import Reference, prompts


def test_a_plan_of_the_checkpoint_that_is_served(
    reference: Callable[[str], Reference], tmp_path: Path
) -> None:
    environment = {
        "GLMC_COMPILER": os.environ["GLMC_COMPILER"],
        "GLMC_CACHE": str(tmp_path),
        "GLMC_REQUIRE": "1",
    }
    options = ["--chunked-prefill-size", "64", "--max-running-requests", "4"]
    texts = prompts(4, 60)
    asked = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}
    with serving("tiny-dense", None, *options, **environment) as server:
        answers = server.post("/generate", {"input_ids": texts, "sampling_params": asked})
        assert "(compiled), cpu, float32, 1 rank" in server.log()
    for text, answer in zip(texts, answers, strict=True):
        assert reference("tiny-dense").first_difference(text, answer["output_ids"]) is None
