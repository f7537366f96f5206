"""Two tensor-parallel ranks over SGLang's own group, which is gloo's here."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from glmc_engines.sglang.metrics import SECONDS
from tests.engines.sglang.server import serving
from tests.engines.sglang.support import Reference, prompts


@pytest.mark.parametrize(
    ("model", "compiled", "served"),
    [
        ("tiny-dense", [], []),
        ("tiny-moe", ["--expert-parallel"], ["--ep-size", "2"]),
    ],
)
def test_two_ranks_give_the_same_tokens(
    artifact: Callable[..., str],
    reference: Callable[[str], Reference],
    model: str,
    compiled: list[str],
    served: list[str],
) -> None:
    path = artifact(model, "--tensor-parallel", "2", *compiled)
    options = ["--tp-size", "2", "--chunked-prefill-size", "32", "--enable-metrics", *served]
    texts = prompts(4, 40)
    asked = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}
    # SGLang wants a memory node for each rank, or to be told which cores they have.
    cores = {"SGLANG_CPU_OMP_THREADS_BIND": "0|0"}
    with serving(model, path, *options, **cores) as server:
        body = {"input_ids": texts, "sampling_params": asked}
        answers = server.post("/generate", body)
        time.sleep(SECONDS + 0.5)  # the last counts are in the metrics by then
        metrics = server.get("/metrics")
    for text, answer in zip(texts, answers, strict=True):
        assert reference(model).first_difference(text, answer["output_ids"]) is None
    for rank in (0, 1):
        steps, replays = (
            sum(
                float(value)
                for value in re.findall(
                    rf'^glmc_{name}_total\{{.*rank="{rank}".*\}} (\S+)$', metrics, re.M
                )
            )
            for name in ("steps", "replays")
        )
        assert steps == replays > 16
