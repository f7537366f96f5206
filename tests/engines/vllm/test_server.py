"""``vllm serve`` with the openai client, as its users write it."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.engines.vllm.reference import Answer, Reference
from tests.engines.vllm.server import Server

pytest.importorskip("openai")

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "The sum of two digits.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
CALL = (
    "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>2</arg_value>\n"
    "<arg_key>b</arg_key>\n<arg_value>3</arg_value>\n</tool_call>"
)
"""As GLM-4.5 writes it."""


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)


def complete(client: Any, answer: Answer, **options: float) -> list[int]:
    found = client.completions.create(
        model="tiny",
        prompt=answer.prompt,
        max_tokens=len(answer.tokens),
        temperature=0,
        extra_body={"ignore_eos": True, "return_token_ids": True},
        **options,
    )
    tokens: list[int] = found.choices[0].token_ids
    return tokens


def test_the_log_says_what_serves(server: Server) -> None:
    lines = [line for line in server.log.read_text().splitlines() if "glmc serves" in line]
    assert len(lines) == 1
    assert "(named), cpu, float32, 1 rank, buckets: prefill" in lines[0]


def test_tokens_of_requests_that_are_sent_at_once(client: Any, answers: list[Answer]) -> None:
    with ThreadPoolExecutor(len(answers)) as threads:
        found = list(threads.map(lambda answer: complete(client, answer), answers))
    assert [
        a.prompt for a, tokens in zip(answers, found, strict=True) if not a.agrees(tokens)
    ] == []


def test_the_metrics_count_our_replays(server: Server, client: Any, answers: list[Answer]) -> None:
    before = server.metric("glmc_steps_total")
    short = min(answers, key=lambda answer: len(answer.prompt))  # one step has all of it
    complete(client, short)
    steps = server.metric("glmc_steps_total")
    assert steps - before == len(short.tokens)
    assert server.metric("glmc_replays_total") == steps
    assert server.metric("glmc_replays_total", phase="decode", bucket="1") > 0
    assert server.metric("glmc_serves", target="cpu") == 1


def test_health_and_metrics_while_requests_run(
    server: Server, client: Any, answers: list[Answer]
) -> None:
    with ThreadPoolExecutor(len(answers)) as threads:
        sent = [threads.submit(complete, client, answer) for answer in answers]
        for path in ("/health", "/metrics"):
            with urlopen(server.url + path, timeout=30) as found:
                assert found.status == 200
        assert server.metric("glmc_serves") == 1
        assert all(a.agrees(each.result()) for a, each in zip(answers, sent, strict=True))


@pytest.mark.parametrize(
    "penalties",
    [{"presence": 1.0}, {"frequency": 1.0}, {"presence": 0.5, "frequency": 0.5}],
    ids="+".join,
)
def test_penalties_on_the_tokens_of_an_answer(
    client: Any,
    answers: list[Answer],
    reference: Callable[[str], Reference],
    penalties: dict[str, float],
) -> None:
    """Small enough that tokens are repeated: before that the two penalties are the same."""
    options = {f"{name}_penalty": value for name, value in penalties.items()}
    for plain in answers[:3]:
        found = complete(client, plain, **options)
        assert not plain.agrees(found)
        assert reference("tiny-moe").with_penalties(plain.prompt, found, **penalties).agrees(found)


def test_a_stream_is_the_text_of_the_whole(client: Any) -> None:
    messages = [{"role": "user", "content": "What does the source code mean?"}]
    options: dict[str, Any] = {"model": "tiny", "messages": messages, "max_tokens": 24}
    options |= {"temperature": 0, "extra_body": {"chat_template_kwargs": {"thinking": False}}}
    whole = client.chat.completions.create(**options)
    parts = list(client.chat.completions.create(stream=True, **options))
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    assert len(parts) > 4


def test_the_model_calls_a_tool(client: Any) -> None:
    found = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Add 2 and 3."}],
        tools=[TOOL],
        tool_choice="required",
        max_tokens=120,
        temperature=0,
        extra_body={"chat_template_kwargs": {"thinking": False}},
    )
    calls = found.choices[0].message.tool_calls
    assert calls and calls[0].function.name == "add"
    assert set(json.loads(calls[0].function.arguments)) <= {"a", "b"}


@pytest.mark.parametrize("thinking", [True, False])
def test_reasoning_words_and_a_call_in_one_answer(
    server: Server, client: Any, thinking: bool
) -> None:
    """The text is forced by a regular expression, as a tiny model writes no call by itself. Where
    there are tools vLLM's grammar allows its own form of a call as well, which begins without a
    line break: the bias makes the first token one."""
    text = f"\n<think>Two digits.</think>\nThe sum:\n{CALL}" if thinking else f"\nThe sum:\n{CALL}"
    (line_break,) = tokens_of(server, "\n")
    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Add 2 and 3."}],
        "tools": [TOOL],
        "tool_choice": "auto",
        "max_tokens": 200,
        "temperature": 0,
        "logit_bias": {str(line_break): 100},
        "extra_body": {
            "structured_outputs": {"regex": text.replace("\n", r"\n").replace(".", r"\.")},
            "chat_template_kwargs": {"enable_thinking": thinking},
        },
    }
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls
    assert call.function.name == "add"
    assert json.loads(call.function.arguments) == {"a": 2, "b": 3}
    assert whole.message.content.strip() == "The sum:"
    assert reasoning(whole.message).strip() == ("Two digits." if thinking else "")

    events = client.chat.completions.create(stream=True, **asked)
    parts = [event.choices[0].delta for event in events if event.choices]
    calls = [call.function for part in parts for call in part.tool_calls or ()]
    assert [call.name for call in calls if call.name] == ["add"]
    assert json.loads("".join(call.arguments or "" for call in calls)) == {"a": 2, "b": 3}
    assert "".join(part.content or "" for part in parts).strip() == "The sum:"
    assert "".join(map(reasoning, parts)).strip() == ("Two digits." if thinking else "")


def reasoning(message: Any) -> str:
    """Of a message or a part of one; releases name it differently."""
    found = getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None)
    return found or ""


def tokens_of(server: Server, text: str) -> list[int]:
    body = json.dumps({"model": "tiny", "prompt": text, "add_special_tokens": False})
    head = {"Content-Type": "application/json"}
    with urlopen(Request(f"{server.url}/tokenize", body.encode(), head), timeout=30) as found:
        tokens: list[int] = json.loads(found.read())["tokens"]
    return tokens


def test_reasoning_is_apart_from_the_answer(client: Any) -> None:
    """Without a token that ends it, all that the model writes is reasoning."""
    found = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "What is a licence?"}],
        max_tokens=16,
        temperature=0,
    )
    message = found.choices[0].message
    assert reasoning(message)
    assert not message.content


def test_json_of_a_schema(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["a"],
        "additionalProperties": False,
    }
    found = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Which digit?"}],
        max_tokens=40,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "digit", "schema": schema}},
        extra_body={"chat_template_kwargs": {"thinking": False}},
    )
    assert set(json.loads(found.choices[0].message.content)) == {"a"}


def test_a_request_that_is_aborted_in_its_stream(
    server: Server, client: Any, answers: list[Answer]
) -> None:
    stream = client.completions.create(
        model="tiny",
        prompt=answers[0].prompt,
        max_tokens=200,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    for _ in range(3):
        next(iter(stream))
    stream.close()
    server.wait_until_idle()
    assert answers[1].agrees(complete(client, answers[1]))


def test_a_request_that_is_too_long_is_refused(client: Any) -> None:
    from openai import BadRequestError

    with pytest.raises(BadRequestError):
        client.completions.create(model="tiny", prompt=[5] * 600, max_tokens=4)
