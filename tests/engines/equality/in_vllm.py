"""vLLM in this process, driven through its own step loop."""

from __future__ import annotations

import gc
from typing import Any

from tests.engines.equality.counted import counted
from tests.engines.equality.result import Result, Subject
from tests.engines.equality.traffic import BLOCK, CHUNK, CONTEXT, POOL, SEQUENCES


def serve(subject: Subject, ours: bool) -> Result:
    """Start an engine, ask it everything, and end it."""
    from vllm import LLM

    llm: Any = LLM(
        subject.checkpoint,
        dtype="float32",
        skip_tokenizer_init=True,
        generation_config="vllm",
        max_model_len=CONTEXT,
        max_num_batched_tokens=CHUNK,
        max_num_seqs=SEQUENCES,
        num_gpu_blocks_override=POOL // BLOCK + 1,
        enable_prefix_caching=True,
        disable_log_stats=False,
    )
    before = counted() if ours else {}
    steps: list[int] = []
    once, cached = _asked(llm.llm_engine, subject, 0, steps)
    later, more = _asked(llm.llm_engine, subject, 2, steps)
    engine = {
        "steps": len(steps),
        "preemptions": sum(
            each.value for each in llm.get_metrics() if each.name == "vllm:num_preemptions"
        ),
        "cached": cached + more,
        "parameters": sum(llm.apply_model(_parameters)),
    }
    after = counted() if ours else {}
    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()
    return Result(
        subject.name,
        once,
        later,
        engine,
        {name: after[name] - (before.get(name, 0) if name != "serves" else 0) for name in after},
    )


def _asked(
    engine: Any, subject: Subject, every: int, steps: list[int]
) -> tuple[list[list[int]], int]:
    """All texts at once where ``every`` is 0, otherwise one each so many steps. The tokens, and how
    many of the prompts' tokens were in the cache."""
    from vllm import SamplingParams

    options = SamplingParams(
        temperature=0, max_tokens=subject.tokens, ignore_eos=True, detokenize=False
    )
    waiting = list(enumerate(subject.texts))
    tokens: dict[int, list[int]] = {}
    cached, turn = 0, 0
    while waiting or engine.has_unfinished_requests():
        while waiting and (every == 0 or turn >= every or not engine.has_unfinished_requests()):
            number, text = waiting.pop(0)
            engine.add_request(str(number), {"prompt_token_ids": text}, options)
            turn = 0
        turn += 1
        steps.append(1)
        for output in engine.step():
            if output.finished:
                tokens[int(output.request_id)] = list(output.outputs[0].token_ids)
                cached += output.num_cached_tokens or 0
    return [tokens[number] for number in range(len(subject.texts))], cached


def _parameters(model: Any) -> int:
    """Numbers in parameters of vLLM's modules: none where a plan computes all."""
    return sum(each.numel() for each in model.parameters())
