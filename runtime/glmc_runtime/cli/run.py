"""``run``: generate from prompts. The text alone is on stdout."""

from __future__ import annotations

import sys
from dataclasses import asdict
from time import perf_counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from glmc_runtime.cli.answers import print_one, print_several, reason_of, say_lengths
from glmc_runtime.cli.prompts import ids_of, texts_of
from glmc_runtime.cli.sessions import session_of, timeline_of, where_of
from glmc_runtime.command.output import aside, counted
from glmc_runtime.format.artifact_files import require_directory
from glmc_runtime.generate.chat_flags import Chat
from glmc_runtime.generate.request_flags import request_settings
from glmc_runtime.printable import json_text

if TYPE_CHECKING:
    from glmc_runtime.generate.session import Session


def run(options: SimpleNamespace) -> int:
    """Generate; returns the exit status."""
    settings, chat = request_settings(options), Chat(options)
    ids = ids_of(options)
    require_directory(options.artifact)
    texts = texts_of(options)
    session = session_of(options, timing=options.statistics, timeline=options.timeline is not None)
    if session.follow():  # rank 0 prints
        return 0
    prompts: list[Any] = [chat.prompt(session.text, text) for text in texts]
    with session, timeline_of(options.timeline, session):
        if options.json:
            _print_json(session, [*prompts, *ids], settings)
        else:
            _print_text(session, [*prompts, *ids], settings)
            if options.statistics:
                print(session.statistics.summary(), file=sys.stderr)
    return 0


def _print_json(session: Session, prompts: list[Any], settings: dict[str, Any]) -> None:
    started = perf_counter()
    stream = session.stream(prompts, **settings)
    completions = stream.completions()
    result = {
        "emulated": session.emulated,
        "interpreted": session.interpreted,
        "seconds": perf_counter() - started,
        "completions": [
            {"prompt": number, "choice": choice, **asdict(completion)}
            for (number, choice), completion in zip(stream.answers, completions, strict=True)
        ],
        "statistics": session.statistics.to_json(),
    }
    print(json_text(result))


def _print_text(session: Session, prompts: list[Any], settings: dict[str, Any]) -> None:
    started = perf_counter()
    stream = session.stream(prompts, **settings)
    say_lengths(session, stream)
    if len(stream.answers) > 1:
        count = sum(len(each.tokens) for each in print_several(session, stream))
        ending = ""
    else:
        completion = print_one(session, stream)
        count, ending = len(completion.tokens), f"; {reason_of(session, completion)}"
    seconds = perf_counter() - started
    aside(f"{counted(count, 'token')} in {seconds:.2f} s{where_of(session)}{ending}")
