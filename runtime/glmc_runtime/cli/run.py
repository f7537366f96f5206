"""``run``: generate from prompts."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from glmc_runtime import load
from glmc_runtime.command.output import generated
from glmc_runtime.errors import RequestError
from glmc_runtime.format.artifact_files import require_directory
from glmc_runtime.generate.chat_flags import Chat
from glmc_runtime.generate.request_flags import request_settings
from glmc_runtime.loading.progress import CHECKING, shown_progress
from glmc_runtime.printable import json_text

if TYPE_CHECKING:
    from glmc_runtime.generate.events import Completion

EMULATED_LINE = "[emulated: no Kunlun hardware was used]"


def run(options: SimpleNamespace) -> int:
    """Generate; returns the exit status."""
    settings, chat = request_settings(options), Chat(options)
    texts, ids = options.prompt or [], [_token_ids(text) for text in options.token_ids or []]
    if not texts and not ids:
        raise RequestError("there is nothing to generate from", remedy="pass --prompt TEXT")
    require_directory(Path(options.artifact))
    from glmc_runtime.kernels.interpreter import INTERPRETED_NOTICE

    with shown_progress(CHECKING) as progress:
        session = load(
            options.artifact,
            verify_hashes=not options.no_verify,
            kv_blocks=options.kv_blocks,
            emulate=options.emulate,
            device=options.device,
            timing=options.statistics,
            guard_steps=options.guard_steps,
            profile_ranges=options.profile is not None,
            progress=progress,
        )
    prompts: list[Any] = [chat.prompt(session.text, prompt) for prompt in texts]
    prompts += ids
    if session.emulated and not options.json:
        print(EMULATED_LINE)
    if session.interpreted and not options.json:
        print(f"[{INTERPRETED_NOTICE}]")
    with _profiled(options.profile, session):
        _generate(options, session, prompts, settings)
    return 0


def _profiled(path: str | None, session: Any) -> AbstractContextManager[None]:
    from glmc_runtime.replay.profile import timeline

    if path is None:
        return nullcontext()
    return timeline(path, session.emulated, session.interpreted)


def _generate(
    options: SimpleNamespace, session: Any, prompts: list[Any], settings: dict[str, Any]
) -> None:
    started = perf_counter()
    if options.json:
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
        return
    count = _print_stream(session, prompts, settings)
    seconds = perf_counter() - started
    note = " (emulated)" if session.emulated else " (interpreted)" if session.interpreted else ""
    print(f"{count} tokens in {seconds:.2f} s{note}", file=sys.stderr)
    if options.statistics:
        print(session.statistics.summary(), file=sys.stderr)


def _print_stream(session: Any, prompts: list[Any], settings: dict[str, Any]) -> int:
    """Print a single prompt as it comes, several one after the other. Returns the token count."""
    readable = session.text.available
    stream = session.stream(prompts, **settings)
    if len(stream.answers) > 1:
        return _print_each(stream.answers, stream.completions(), readable)
    count = 0
    for event in stream:
        print(generated(event.text) if readable else f"{event.token} ", end="", flush=True)
        count += 1
    print()
    return count


def _print_each(
    answers: list[tuple[int, int]], completions: list[Completion], readable: bool
) -> int:
    several = any(choice for _, choice in answers)
    for (number, choice), completion in zip(answers, completions, strict=True):
        name = f"prompt {number}" + (f", answer {choice}" if several else "")
        print(f"--- {name} ({completion.finish_reason})")
        print(generated(completion.text) if readable else " ".join(map(str, completion.tokens)))
    return sum(len(completion.tokens) for completion in completions)


def _token_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise RequestError(
            "--token-ids is not a list of ids", expected="ids such as 1,2,3", found=repr(text)
        ) from error
