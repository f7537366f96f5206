"""Answers on stdout, and what is to be said about them on stderr.

One answer is its text, as it comes. Several are in the prompts' order: on a terminal as they are,
in a pipe or a file on a line each, with line breaks as ``\\n`` and ``\\r`` and a backslash as
``\\\\``, so that line N is answer N whatever it says.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from glmc_runtime.command.output import aside, counted, generated

if TYPE_CHECKING:
    from glmc_runtime.generate.events import Completion
    from glmc_runtime.generate.session import Session
    from glmc_runtime.generate.stream import EventStream


def say_lengths(session: Session, stream: EventStream) -> None:
    """Say where the context ends an answer before the length that was asked for."""
    if stream.fitting:
        few, many = min(stream.fitting.values()), max(stream.fitting.values())
        count = f"{few}" if few == many else f"{few} to {many}"
        aside(f"at most {count} new tokens fit the context of {session.max_context}")


def print_one(session: Session, stream: EventStream) -> Completion:
    """Print a single answer as it comes."""
    from glmc_runtime.generate.events import Completion

    readable = session.text.available
    completion = Completion([], "", "")
    for event in stream:
        text = generated(event.text) if readable else f"{event.token} "
        print(text, end="", flush=True)
        completion.take(event)
    print()
    return completion


def print_several(session: Session, stream: EventStream) -> list[Completion]:
    """Print each answer when it and those before it are complete."""
    from glmc_runtime.generate.events import Completion

    completions = {answer: Completion([], "", "") for answer in stream.answers}
    waiting = list(completions)
    several = any(choice for _, choice in waiting)
    for event in stream:
        completions[event.request, event.choice].take(event)
        while waiting and completions[waiting[0]].finish_reason:
            number, choice = answer = waiting.pop(0)
            completion = completions[answer]
            name = f"prompt {number}" + (f", answer {choice}" if several else "")
            length = counted(len(completion.tokens), "token")
            aside(f"--- {name}: {length}, {reason_of(session, completion)}")
            print(_one_line(completion, session.text.available), flush=True)
    return list(completions.values())


def _one_line(completion: Completion, readable: bool) -> str:
    if not readable:
        return " ".join(map(str, completion.tokens))
    if sys.stdout.isatty():
        return generated(completion.text)
    text = completion.text.replace("\\", "\\\\")
    return text.replace("\n", "\\n").replace("\r", "\\r")


def reason_of(session: Session, completion: Completion) -> str:
    """Why an answer ended, in words."""
    reason, cause = completion.finish_reason, completion.stop_reason
    if reason == "length":
        return f"stopped: length of {len(completion.tokens)}"
    if reason == "context":
        return f"stopped: end of the context of {session.max_context}"
    if isinstance(cause, str):
        return f"stopped: text {cause!r}"
    return "stopped: end token" if reason else "stopped by you"
