"""``glmc-runtime run`` and ``glmc-runtime doctor``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from time import perf_counter
from typing import TYPE_CHECKING, Any

from glmc_runtime import GUARD_STEPS, __version__, load
from glmc_runtime.command.ending import unwound_when_ended
from glmc_runtime.command.out_of_memory import leave_at_the_limit, memory_errors
from glmc_runtime.command.output import generated, printable_logs, printable_traces, status_of
from glmc_runtime.errors import CapacityError, GlmcError, RequestError
from glmc_runtime.generate.chat_flags import Chat, add_chat_flags
from glmc_runtime.generate.request_flags import add_request_flags, request_settings
from glmc_runtime.kernels.interpreter import INTERPRETED_NOTICE
from glmc_runtime.loading.progress import shown_progress
from glmc_runtime.printable import json_text, printable_lines

if TYPE_CHECKING:
    from glmc_runtime.generate.events import Completion

EMULATED_LINE = "[emulated: no Kunlun hardware was used]"
INTERPRETED_LINE = f"[{INTERPRETED_NOTICE}]"
PROGRESS_LABEL = "checking the artifact's files"


def main(arguments: Sequence[str] | None = None, program: str = "glmc-runtime") -> int:
    """Entry point; returns the exit status (0, or that of the error).

    ``program`` is what the user typed, for usage lines.
    """
    with unwound_when_ended():
        return _main(_parser(program).parse_args(arguments), program)


def _main(options: argparse.Namespace, program: str) -> int:
    if options.debug:
        printable_traces()
    try:
        with memory_errors(lambda: f"{program} {options.command}"), printable_logs():
            status: int = options.action(options)
        sys.stdout.flush()  # a closed pipe shows here and not when the interpreter ends
    except GlmcError as error:
        if options.debug:
            raise
        print(error, file=sys.stderr)
        if isinstance(error, CapacityError):
            leave_at_the_limit(error.exit_status)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if options.debug and not isinstance(error, BrokenPipeError):
            raise
        return status_of(error)
    return status


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description="Replay an artifact that glmc compiled."
    )
    parser.add_argument("--version", action="version", version=f"glmc-runtime {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    run = commands.add_parser("run", help="generate from prompts")
    run.set_defaults(action=_run)
    _add_common(run)
    run.add_argument("--prompt", action="append", default=[], help="a prompt; may be repeated")
    run.add_argument(
        "--token-ids", action="append", default=[], help="a prompt as ids, such as 1,2,3"
    )
    add_chat_flags(run)
    add_request_flags(run)
    run.add_argument("--kv-blocks", type=int, help="blocks of the KV cache, scratch included")
    run.add_argument(
        "--guard-steps",
        type=int,
        default=GUARD_STEPS,
        metavar="N",
        help="check what vendor calls return and write in the first N steps of each phase "
        "(default: %(default)s)",
    )
    run.add_argument("--statistics", action="store_true", help="print counts and times at the end")
    run.add_argument(
        "--profile",
        metavar="FILE",
        help="write a timeline with a range for each kernel call, for Perfetto (ui.perfetto.dev)",
    )
    run.add_argument("--json", action="store_true", help="one JSON object on stdout")

    doctor = commands.add_parser("doctor", help="check each vendor call on this machine")
    doctor.set_defaults(action=_doctor)
    _add_common(doctor)
    doctor.add_argument("--seed", type=int, default=0)
    doctor.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", metavar="ARTIFACT", help="directory written by glmc compile")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--no-verify", action="store_true", help="do not compare file hashes")
    parser.add_argument(
        "--emulate",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="force or refuse the vendor emulator",
    )
    parser.add_argument(
        "--device", metavar="cpu|cuda", help="where an emulated artifact runs (default: cpu)"
    )


def _run(options: argparse.Namespace) -> int:
    settings, chat = request_settings(options), Chat(options)
    if not options.prompt and not options.token_ids:
        raise RequestError("there is nothing to generate from", remedy="pass --prompt TEXT")
    with shown_progress(PROGRESS_LABEL) as progress:
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
    prompts: list[Any] = [chat.prompt(session.text, prompt) for prompt in options.prompt]
    prompts += [_token_ids(text) for text in options.token_ids]
    if session.emulated and not options.json:
        print(EMULATED_LINE)
    if session.interpreted and not options.json:
        print(INTERPRETED_LINE)
    with _profiled(options.profile, session):
        _generate(options, session, prompts, settings)
    return 0


def _profiled(path: str | None, session: Any) -> AbstractContextManager[None]:
    from glmc_runtime.replay.profile import timeline

    if path is None:
        return nullcontext()
    return timeline(path, session.emulated, session.interpreted)


def _generate(
    options: argparse.Namespace, session: Any, prompts: list[Any], settings: dict[str, Any]
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


def _doctor(options: argparse.Namespace) -> int:
    from glmc_runtime.doctor import examine

    with shown_progress(PROGRESS_LABEL) as progress:
        report = examine(
            options.artifact,
            verify_hashes=not options.no_verify,
            emulate=options.emulate,
            device=options.device,
            seed=options.seed,
            progress=progress,
        )
    if options.json:
        print(json.dumps(report.to_json()))
    else:
        print(printable_lines(report.text()))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
