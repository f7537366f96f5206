"""``chat``: a conversation with scripted input."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import glmc_runtime
from glmc_runtime.cli import main
from glmc_runtime.cli.commands import CHAT, RUN
from glmc_runtime.errors import NumericsError, RequestError, VendorError
from glmc_runtime.generate.chat_flags import Chat
from glmc_runtime.generate.conversation import Conversation, common_length
from glmc_runtime.generate.events import Event
from glmc_runtime.generate.options import MAX_NEW_TOKENS, RequestOptions
from glmc_runtime.generate.stream import EventStream
from tests.runtime.toy import MAX_CONTEXT, reference_greedy

pytest.importorskip("jinja2")
LENGTH = 4
FLAGS = ("--max-new-tokens", str(LENGTH), "--ignore-eos")


def answers(*messages: str, system: str = "") -> list[str]:
    """What the model says to each message, computed without a cache."""
    prompt = [9, int(system[1:]), 8] if system else []
    texts = []
    for message in messages:
        prompt += [9, *(int(word[1:]) for word in message.split()), 8]
        tokens = reference_greedy(prompt, LENGTH)
        texts.append(" ".join(f"w{token}" for token in tokens))
        prompt += tokens
    return texts


def test_a_conversation(
    worded: Path,
    tmp_path: Path,
    typed: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved = tmp_path / "talk.json"
    typed("w3 w14", "", "w5\\", "w6", f"/save {saved}", "/reset", "w3 w14", "/exit", "w1")
    assert main(["chat", str(worded), *FLAGS, "--system", "w20"]) == 0
    captured = capsys.readouterr()
    expected = answers("w3 w14", "w5 w6", system="w20")
    assert captured.out.splitlines() == [*expected, expected[0]]
    roles = [(each["role"], each["content"]) for each in json.loads(saved.read_text())]
    assert roles == [
        ("system", "w20"),
        ("user", "w3 w14"),
        ("assistant", expected[0]),
        ("user", "w5\nw6"),
        ("assistant", expected[1]),
    ]
    assert "[stopped: length of 4]" in captured.err


def conversation_of(path: Path, **options: object) -> Conversation:
    flags = SimpleNamespace(**{option.name: option.default for option in CHAT.options})
    settings = {"options": RequestOptions(**options)}  # type: ignore[arg-type]
    return Conversation(glmc_runtime.load(path), Chat(flags), settings)


def test_what_is_cached_is_not_computed_again(worded: Path) -> None:
    conversation = conversation_of(worded, max_new_tokens=LENGTH, ignore_eos=True)
    allocator = conversation.session.cache.allocator
    free = allocator.available
    for message, answer, reused in zip(
        ("w3 w14", "w5"), answers("w3 w14", "w5"), (0, 4 + LENGTH - 1), strict=True
    ):
        text = "".join(event.text for event in conversation.ask(message))
        assert text == answer
        conversation.take(text)
        # The first prompt and its answer, but for the newest token, which nobody has computed.
        assert conversation.reused == reused
    assert allocator.available < free
    conversation.reset()
    assert allocator.available == free and conversation.messages == []


def test_without_a_length_an_answer_has_the_rest_of_the_context(worded: Path) -> None:
    conversation = conversation_of(worded, ignore_eos=True)
    (*_, last) = conversation.ask("w3")
    assert (last.finish_reason, conversation.prompt_tokens) == ("length", 3)
    conversation.take("w1 " * MAX_CONTEXT)
    with pytest.raises(RequestError, match="longer than the context"):
        conversation.ask("w4")
    assert len(conversation.messages) == 2  # the question that was refused is none of them


def test_ctrl_c_stops_the_answer_and_not_the_chat(
    worded: Path,
    typed: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What there is of the answer is a part of the conversation."""
    given = EventStream.__next__
    events: list[Event] = []

    def interrupted(stream: EventStream) -> Event:
        events.append(given(stream))
        if len(events) == 2:
            signal.raise_signal(signal.SIGINT)
        return events[-1]

    monkeypatch.setattr(EventStream, "__next__", interrupted)
    typed("w3 w14", "w5")
    before = signal.getsignal(signal.SIGINT)
    assert main(["chat", str(worded), *FLAGS]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == answers("w3 w14")[0].split()[:2]
    prompt = [9, 3, 14, 8, *(event.token for event in events[:2]), 9, 5, 8]
    assert second.split() == [f"w{token}" for token in reference_greedy(prompt, LENGTH)]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_the_command(
    worded: Path, typed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(stream: EventStream) -> Event:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr(EventStream, "__next__", interrupted)
    typed("w3")
    assert main(["chat", str(worded), *FLAGS]) == 130


def test_ctrl_c_ends_a_chat_that_waits_for_a_pipe(
    worded: Path, typed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed()
    read = sys.stdin.readline

    def interrupted() -> str:
        monkeypatch.setattr(sys.stdin, "readline", read)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.stdin, "readline", interrupted)
    assert main(["chat", str(worded), *FLAGS]) == 130


@pytest.mark.parametrize("error", [NumericsError("NaN"), VendorError("a call failed")])
@pytest.mark.parametrize("events", [0, 2])
def test_an_answer_that_fails_leaves_no_question_without_one(
    events: int,
    error: Exception,
    worded: Path,
    tmp_path: Path,
    typed: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What there is of it stays, and whoever types can save it."""
    real = EventStream.__next__
    seen = 0

    def failing(stream: EventStream) -> Event:
        nonlocal seen
        seen += 1
        if seen == events + 1:
            raise error
        return real(stream)

    monkeypatch.setattr(EventStream, "__next__", failing)
    saved = tmp_path / "talk.json"
    typed("w3 w14", f"/save {saved}", "w5", terminal=True)
    assert main(["chat", str(worded), *FLAGS]) == 0
    captured = capsys.readouterr()
    assert "/save FILE" in captured.err.partition(str(error))[2]
    messages = json.loads(saved.read_text())
    assert [each["role"] for each in messages] == (["user", "assistant"] if events else [])
    *_, last = captured.out.splitlines()
    said = (
        [9, 3, 14, 8, *(int(word[1:]) for word in messages[1]["content"].split())] if events else []
    )
    assert last.split() == [f"w{token}" for token in reference_greedy([*said, 9, 5, 8], LENGTH)]


def test_a_talk_that_has_grown_too_long_names_the_way_out(
    worded: Path, typed: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    typed("w3 w14", "w3 " * MAX_CONTEXT, "/reset", "w3 w14", terminal=True)
    assert main(["chat", str(worded), *FLAGS]) == 0
    captured = capsys.readouterr()
    assert "/reset forgets what was said before; or shorten the prompt" in captured.err
    assert captured.out.splitlines() == answers("w3 w14") * 2


def test_a_save_follows_no_link_and_destroys_no_earlier_one(
    worded: Path,
    tmp_path: Path,
    typed: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*paths: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    link, saved = tmp_path / "link", tmp_path / "talk.json"
    link.symlink_to(tmp_path / "nothing")
    monkeypatch.setattr(os, "replace", full)
    typed(f"/save {link}", f"/save {saved}", "w3", f"/save {saved}", terminal=True)
    assert main(["chat", str(worded), *FLAGS]) == 0
    errors = capsys.readouterr().err
    assert "exists" in errors and "No space left on device" in errors
    assert json.loads(saved.read_text()) == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "talk.json"]


def test_the_help_of_a_length_is_that_of_the_command() -> None:
    chat, run = (
        next(option.help for option in command.options if option.name == "max_new_tokens")
        for command in (CHAT, RUN)
    )
    assert "all that the context holds" in chat  # as a test above shows
    assert f"(default: {MAX_NEW_TOKENS})" in run


def test_mistakes_end_a_script_and_not_a_conversation(
    worded: Path,
    tmp_path: Path,
    typed: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    nowhere = tmp_path / "nowhere"
    lines = (
        "/rest",
        f"/save {taken}",
        f"/save {nowhere}/talk",
        "/save",
        "w3 " * MAX_CONTEXT,
        "/help",
        "w3 w14",
    )
    typed(*lines)
    assert main(["chat", str(worded), *FLAGS]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "did you mean '/reset'?" in captured.err
    typed(*lines, terminal=True)
    assert main(["chat", str(worded), *FLAGS]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == answers("w3 w14")
    assert captured.err.count("[GLMC-2004]") == 5
    assert f"there is no folder '{nowhere}'" in captured.err
    assert "/reset forgets" not in captured.err  # nothing was said before
    assert taken.read_text() == "mine"


def test_an_artifact_without_a_tokenizer_says_so_at_once(
    toy_path: Path, typed: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    typed("hello", terminal=True)
    assert main(["chat", str(toy_path)]) == 2
    assert "the artifact has no tokenizer" in capsys.readouterr().err


def test_tokens_that_two_prompts_begin_with() -> None:
    assert common_length([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_length([1, 2], [1, 2, 3]) == common_length([1, 2, 3], [1, 2]) == 2
    assert common_length([], [1]) == 0
