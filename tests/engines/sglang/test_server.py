"""``python -m sglang.launch_server`` with the plug-in, and the client of OpenAI."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.engines.sglang.server import Server, command, serving
from tests.engines.sglang.support import Reference, prompts

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CALL = "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</tool_call>"
# A grammar begins after the reasoning, which a tiny model never ends.
DIRECTLY = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.fixture(scope="module")
def server(artifact: Callable[..., str]) -> Iterator[Server]:
    options = ["--tool-call-parser", "glm45", "--reasoning-parser", "glm45", "--enable-metrics"]
    options += ["--constrained-json-disable-any-whitespace"]
    with serving("tiny-moe", artifact("tiny-moe"), *options, begin=command) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)


def test_the_log_says_first_what_serves(server: Server) -> None:
    lines = [line for line in server.log().splitlines() if "glmc serves" in line]
    assert len(lines) == 1
    assert re.search(r"tiny-moe.*\(named\), cpu, float32, 1 rank, buckets: prefill 16/", lines[0])


def test_completions_are_hugging_face_s(
    server: Server, reference: Callable[[str], Reference]
) -> None:
    texts = prompts(4, 40)
    for text in texts:
        body = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}
        answer = server.post("/generate", {"input_ids": text, "sampling_params": body})
        assert reference("tiny-moe").first_difference(text, answer["output_ids"]) is None


def test_a_chat(client: Any) -> None:
    answer = client.chat.completions.create(
        model="tiny-moe",
        messages=[{"role": "user", "content": "Hello"}],
        temperature=0,
        max_tokens=16,
        logprobs=True,
        top_logprobs=2,
    )
    assert answer.usage.completion_tokens >= 1
    assert len(answer.choices[0].logprobs.content) == answer.usage.completion_tokens


def test_a_stream_is_the_text_of_the_answer_at_once(client: Any) -> None:
    asked = {"model": "tiny-moe", "prompt": "The source code", "temperature": 0, "max_tokens": 16}
    whole = client.completions.create(**asked).choices[0].text
    parts = [event.choices[0].text for event in client.completions.create(stream=True, **asked)]
    assert "".join(parts) == whole
    assert len(parts) > 3


def test_reasoning_that_does_not_end_is_no_answer(client: Any) -> None:
    answer = client.chat.completions.create(
        model="tiny-moe",
        messages=[{"role": "user", "content": "Hello"}],
        temperature=0,
        max_tokens=16,
    )
    message = answer.choices[0].message
    assert message.reasoning_content
    assert not message.content


@pytest.mark.parametrize(
    ("before", "reasoning", "content"),
    [("", "", ""), ("<think>A city</think>\nIts weather:\n", "A city", "Its weather:")],
    ids=["alone", "after_reasoning_and_words"],
)
def test_a_tool_call_in_the_model_s_own_form(
    client: Any, before: str, reasoning: str, content: str
) -> None:
    """Reasoning that the model itself begins is parsed without thinking, too."""
    asked = {
        "model": "tiny-moe",
        "messages": [{"role": "user", "content": "The weather of Rome?"}],
        "tools": [TOOL],
        "tool_choice": "auto",
        "temperature": 0,
        "max_tokens": 200,
        "extra_body": {"regex": (before + CALL).replace("\n", r"\n"), **DIRECTLY},
    }
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Rome"}
    assert (whole.message.reasoning_content or "") == reasoning
    assert (whole.message.content or "").strip() == content
    pieces = [
        event.choices[0].delta for event in client.chat.completions.create(stream=True, **asked)
    ]
    calls = [call.function for piece in pieces for call in piece.tool_calls or ()]
    assert [call.name for call in calls if call.name] == ["weather"]
    assert json.loads("".join(call.arguments or "" for call in calls)) == {"city": "Rome"}
    assert "".join(piece.reasoning_content or "" for piece in pieces) == reasoning
    assert "".join(piece.content or "" for piece in pieces).strip() == content


def test_an_answer_as_json(client: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answer = client.chat.completions.create(
        model="tiny-moe",
        messages=[{"role": "user", "content": "1 or 2?"}],
        temperature=0,
        max_tokens=60,
        response_format=form,
        extra_body=DIRECTLY,
    )
    assert answer.choices[0].finish_reason == "stop"
    assert json.loads(answer.choices[0].message.content) in ({"a": 1}, {"a": 2})


def test_the_metrics_count_replays(server: Server) -> None:
    text = server.get("/metrics")
    assert re.search(r'^glmc_serves\{.*rank="0".*\} 1\.0$', text, re.MULTILINE)
    numbers = {
        name: sum(float(value) for value in re.findall(rf"^{name}\{{.*\}} (\S+)$", text, re.M))
        for name in ("glmc_steps_total", "glmc_replays_total", "glmc_tokens_total")
    }
    assert numbers["glmc_steps_total"] == numbers["glmc_replays_total"] > 0
    assert numbers["glmc_tokens_total"] > numbers["glmc_steps_total"]


def test_other_weights_are_refused_and_the_server_lives(server: Server) -> None:
    answer = server.post("/update_weights_from_disk", {"model_path": server.model}, status=400)
    assert not answer["success"]
    assert "glmc" in answer["message"]
    assert server.post("/generate", {"text": "a", "sampling_params": {"max_new_tokens": 2}})


def test_an_image_is_refused_and_the_server_lives(server: Server) -> None:
    asked = {"text": "a", "image_data": "picture.png", "sampling_params": {"max_new_tokens": 2}}
    answer = server.post("/generate", asked, status=400)
    assert "[GLMC-4001] compiled plans do not have images" in json.dumps(answer)
    assert server.post("/generate", {"text": "a", "sampling_params": {"max_new_tokens": 2}})


def test_health(server: Server) -> None:
    for path in ("/health", "/health_generate"):
        with urlopen(Request(server.address + path), timeout=60) as answer:
            assert answer.status == 200
