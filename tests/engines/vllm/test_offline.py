"""``vllm.LLM`` over our plans: tokens of transformers, whatever the scheduler does, and counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from vllm import LLM, SamplingParams
from vllm.sampling_params import StructuredOutputsParams

from glmc_engines.core.counters import shared_counts
from tests.engines.vllm.conftest import Compile
from tests.engines.vllm.reference import ROOT, Answer, Reference

GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
SMALL = {
    "max_num_batched_tokens": 48,  # prompts come in chunks, beside running requests
    "block_size": 16,
    "num_gpu_blocks_override": 41,  # requests are preempted
    "max_model_len": 256,
    "max_num_seqs": 12,
    "enable_sleep_mode": True,
    "disable_log_stats": False,
}


def counts(name: str, **labels: str) -> int:
    wanted = set(labels.items())
    return sum(
        count.value
        for count in shared_counts()
        if count.name == name and wanted <= set(count.labels)
    )


def metric(llm: Any, name: str) -> int:
    return sum(each.value for each in llm.get_metrics() if each.name == f"vllm:{name}")


def start(model: str, **options: Any) -> Any:
    return LLM(str(ROOT / "models" / model), dtype="float32", **options)


def generate(llm: Any, prompts: list[list[int]], options: Any = GREEDY) -> list[Any]:
    found: list[Any] = llm.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts], options, use_tqdm=False
    )
    return found


def check(outputs: list[Any], answers: list[Answer]) -> None:
    wrong = [
        answer.prompt
        for output, answer in zip(outputs, answers, strict=True)
        if not answer.agrees(list(output.outputs[0].token_ids))
    ]
    assert not wrong


@pytest.fixture(scope="module")
def llm(artifact: Compile) -> Iterator[Any]:
    """tiny-moe with a scheduler that has to chunk and to preempt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("GLMC_ARTIFACT", str(artifact("tiny-moe")))
        patch.setenv("GLMC_REQUIRE", "1")
        yield start("tiny-moe", **SMALL)


def test_tokens_in_chunks_and_with_preemptions(llm: Any, answers: list[Answer]) -> None:
    before = metric(llm, "num_preemptions")
    steps, replays = counts("steps"), counts("replays")
    check(generate(llm, [answer.prompt for answer in answers]), answers)
    assert metric(llm, "num_preemptions") > before
    assert counts("steps") - steps == counts("replays") - replays > 24
    assert counts("replays", phase="prefill") and counts("replays", phase="decode")


def test_tokens_after_prefix_hits(llm: Any, answers: list[Answer]) -> None:
    few = answers[:4]
    generate(llm, [answer.prompt for answer in few])
    outputs = generate(llm, [answer.prompt for answer in few])
    check(outputs, few)
    assert sum(output.num_cached_tokens for output in outputs) > 0


def test_sleep_and_wake(llm: Any, answers: list[Answer]) -> None:
    few = answers[:3]
    generate(llm, [answer.prompt for answer in few])
    llm.sleep(level=1)
    llm.wake_up()
    outputs = generate(llm, [answer.prompt for answer in few])
    check(outputs, few)
    assert sum(output.num_cached_tokens for output in outputs) == 0


def test_log_probabilities_of_answer_and_prompt(
    llm: Any, reference: Callable[[str], Reference]
) -> None:
    """The prompt is longer than a step, so that its probabilities come in several."""
    model = reference("tiny-moe")
    prompt = max(model.prompts(12), key=len)
    assert len(prompt) > SMALL["max_num_batched_tokens"]
    options = SamplingParams(temperature=0, max_tokens=4, logprobs=3, prompt_logprobs=2)
    output = generate(llm, [prompt], options)[0]
    tokens = [*prompt, *output.outputs[0].token_ids]
    wanted = model.log_probabilities(tokens)
    found = [*output.prompt_logprobs[1:], *output.outputs[0].logprobs]
    assert len(found) == len(tokens) - 1
    for place, row in enumerate(found):
        for token, entry in row.items():
            assert abs(entry.logprob - float(wanted[place, token])) < 2e-3


def test_repetition_penalty(llm: Any, reference: Callable[[str], Reference]) -> None:
    model = reference("tiny-moe")
    answers = [model.answer(prompt, 16, penalty=1.3) for prompt in model.prompts(3)]
    options = SamplingParams(temperature=0, max_tokens=16, repetition_penalty=1.3, ignore_eos=True)
    check(generate(llm, [answer.prompt for answer in answers], options), answers)


def test_seeds_and_several_answers(llm: Any, answers: list[Answer]) -> None:
    options = SamplingParams(
        n=3, temperature=0.9, min_p=0.02, top_p=0.95, top_k=50, seed=7, max_tokens=12
    )
    first, again = (generate(llm, [answers[0].prompt], options)[0] for _ in range(2))
    texts = [list(each.token_ids) for each in first.outputs]
    assert texts == [list(each.token_ids) for each in again.outputs]
    assert len({tuple(text) for text in texts}) > 1


def test_stop_strings(llm: Any) -> None:
    whole = llm.generate("The source code for a work means", GREEDY, use_tqdm=False)[0]
    text = whole.outputs[0].text
    word = text.split()[3]
    options = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, stop=[word])
    output = llm.generate("The source code for a work means", options, use_tqdm=False)[0]
    assert output.outputs[0].text == text[: text.index(word)]
    assert output.outputs[0].finish_reason == "stop"


def test_structured_outputs(llm: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["a"],
        "additionalProperties": False,
    }
    options = SamplingParams(
        temperature=0, max_tokens=40, structured_outputs=StructuredOutputsParams(json=schema)
    )
    output = llm.generate("The answer is", options, use_tqdm=False)[0]
    assert set(json.loads(output.outputs[0].text)) == {"a"}


def test_dense_tokens_in_one_step(
    in_process: pytest.MonkeyPatch, artifact: Compile, reference: Callable[[str], Reference]
) -> None:
    in_process.setenv("GLMC_ARTIFACT", str(artifact("tiny-dense")))
    model = reference("tiny-dense")
    answers = [model.answer(prompt, 24) for prompt in model.prompts(12)]
    llm = start("tiny-dense", max_model_len=512)
    check(generate(llm, [answer.prompt for answer in answers]), answers)
    assert counts("steps") == counts("replays") > 0
    assert counts("serves") == 1


def test_a_model_that_is_left_to_vllm(
    in_process: pytest.MonkeyPatch, reference: Callable[[str], Reference]
) -> None:
    """What plans lack is asked for, and no artifact is named: the counts say who serves. Engines of
    other tests may be there still; they have a target."""
    model = reference("tiny-dense")
    answers = [model.answer(prompt, 8) for prompt in model.prompts(3)]
    llm = start("tiny-dense", max_model_len=128, enable_prompt_embeds=True)
    steps = counts("steps")
    options = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    check(generate(llm, [answer.prompt for answer in answers], options), answers)
    serves = [count for count in shared_counts() if count.name == "serves"]
    assert [count.value for count in serves if not count.labels] == [0]
    assert counts("steps") == steps
    assert torch.get_default_dtype() == torch.float32
