"""``chat``: a conversation on a terminal, or with the messages that a pipe brings, one a line."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import TYPE_CHECKING

from glmc_runtime.cli.answers import reason_of
from glmc_runtime.cli.sessions import session_of, where_of
from glmc_runtime.command.ending import interrupt_noted
from glmc_runtime.command.nearest import did_you_mean
from glmc_runtime.command.output import aside, counted, file_error, generated
from glmc_runtime.errors import CapacityError, GlmcError, RequestError
from glmc_runtime.format.artifact_files import require_directory
from glmc_runtime.generate.chat_flags import Chat
from glmc_runtime.generate.request_flags import request_settings

if TYPE_CHECKING:
    from glmc_runtime.generate.conversation import Conversation
    from glmc_runtime.generate.session import Session

_LOG = logging.getLogger("glmc_runtime.chat")
HELP = """\
/reset      forget all but the system message
/save FILE  write the messages as JSON
/help       this
/exit       end, as Ctrl-D does
A line that ends in a backslash goes on in the next one; // begins a message with a slash.
Ctrl-C stops an answer; what there is of it stays in the conversation."""


def chat(options: SimpleNamespace) -> int:
    """Talk until the input ends; returns the exit status."""
    settings, flags = request_settings(options), Chat(options)
    require_directory(options.artifact)
    session = session_of(options)
    if session.follow():  # rank 0 talks
        return 0
    from glmc_runtime.generate.conversation import Conversation

    flags.prompt(session.text, "")  # a template that is missing or wrong is said before the talk
    talk = _Talk(session, Conversation(session, flags, settings))
    if talk.typed:
        aside("/help shows the commands, /exit or Ctrl-D ends the conversation")
    while (line := talk.read()) is not None:
        if not talk.follow(line):
            break
    return 0


class _Talk:
    """Reads messages and commands, and prints answers."""

    def __init__(self, session: Session, conversation: Conversation) -> None:
        self._session = session
        self._conversation = conversation
        self._saved: set[Path] = set()
        self._commands: dict[str, Callable[[str], None]] = {
            "reset": self._reset,
            "save": self._save,
            "help": lambda argument: aside(HELP),
        }
        self.typed = sys.stdin.isatty()

    def read(self) -> str | None:
        """A message or command, whose line may go on in the next; None at the end of the input."""
        text = ""
        while True:
            try:
                line = _line(prompt="... " if text else "> ", typed=self.typed)
            except KeyboardInterrupt:
                if not self.typed:  # it may wait for ever for whoever writes into the pipe
                    raise
                aside("\n/exit or Ctrl-D ends the conversation")
                text = ""
                continue
            if line is None:
                return text or None
            if not line.endswith("\\"):
                return text + line
            text += f"{line[:-1]}\n"

    def follow(self, line: str) -> bool:
        """Answer a message or do what a command says; False for /exit.

        What can't be done is said and the conversation goes on, if somebody types; otherwise it
        ends the command.
        """
        name, _, argument = line.removeprefix("/").partition(" ")
        try:
            if not line.startswith("/") or line.startswith("//"):
                self._answer(line[1:] if line.startswith("//") else line)
            elif name in ("exit", "quit"):
                return False
            elif name in self._commands:
                self._commands[name](argument.strip())
            else:
                raise RequestError(
                    f"there is no command '/{name}'",
                    expected="/reset, /save FILE, /help, /exit",
                    remedy=did_you_mean(f"/{name}", ("/reset", "/save", "/help", "/exit"))
                    or "begin a message with // for a slash",
                )
        except GlmcError as error:
            if not self.typed:
                raise
            print(error, file=sys.stderr)
            if not isinstance(error, (RequestError, CapacityError)):
                aside("the conversation goes on; /save FILE writes it, /exit ends it")
        return True

    def _answer(self, message: str) -> None:
        """Answer; an error of a talk that has grown too long names the way out of it."""
        try:
            self._stream(message)
        except (RequestError, CapacityError) as error:
            if self._conversation.begun:
                ways = ("/reset forgets what was said before", error.remedy)
                error.remedy = "; or ".join(filter(None, ways))
            raise

    def _stream(self, message: str) -> None:
        from glmc_runtime.generate.events import Completion

        if not message.strip():
            return
        started = perf_counter()
        completion = Completion([], "", "")
        with interrupt_noted() as interrupted, self._conversation.ask(message) as stream:
            try:
                for event in stream:
                    completion.take(event)
                    print(generated(event.text), end="", flush=True)
                    if interrupted():
                        break
            finally:  # also of an answer that fails: what there is of it stays
                self._conversation.take(completion.text)
                print(flush=True)
        if not completion.text:
            aside("[no answer]")
        elif completion.finish_reason != "stop":
            aside(f"[{reason_of(self._session, completion)}]")
        _LOG.info(
            "%s in %.2f s%s; %d of %d tokens of the prompt were cached",
            counted(len(completion.tokens), "token"),
            perf_counter() - started,
            where_of(self._session),
            self._conversation.reused,
            self._conversation.prompt_tokens,
        )

    def _reset(self, argument: str) -> None:
        self._conversation.reset()
        aside("the conversation begins anew")

    def _save(self, argument: str) -> None:
        path = Path(argument)
        if not argument or (os.path.lexists(path) and path not in self._saved):
            raise RequestError(
                f"'{argument}' exists" if argument else "no file was named",
                expected="a new file, or one that this conversation was saved to",
                remedy="/save FILE",
            )
        text = json.dumps(self._conversation.messages, ensure_ascii=False, indent=1)
        try:
            _write_whole(path, f"{text}\n")
        except OSError as error:
            if not path.parent.is_dir():
                raise RequestError(
                    f"there is no folder '{path.parent}'",
                    place=argument,
                    expected="a folder that exists",
                    remedy="make the folder, or save the messages in another one",
                ) from error
            refused = file_error(error)
            raise RequestError(refused.message, place=argument, remedy=refused.remedy) from error
        self._saved.add(path)
        aside(f"{len(self._conversation.messages)} messages written to {argument}")


def _write_whole(path: Path, text: str) -> None:
    """Write all of a file or leave it as it was: one that is there is replaced at the end."""
    earlier = os.path.lexists(path)
    target = path.with_name(f".{path.name}.{os.getpid()}") if earlier else path
    file = target.open("x", encoding="utf-8")  # follows no link
    try:
        with file:
            file.write(text)
        if earlier:
            target.chmod(path.stat().st_mode & 0o777)
            os.replace(target, path)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _line(*, prompt: str, typed: bool) -> str | None:
    """A line of stdin; None at its end. A prompt is for whoever types, and is no output."""
    if typed and sys.stdout.isatty():
        _edit_lines()
        try:
            return input(prompt)
        except EOFError:
            print()
            return None
    if typed:
        print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.removesuffix("\n") if line else None


def _edit_lines() -> None:
    """Let ``input`` edit its line and remember earlier ones, where the library is there."""
    from contextlib import suppress

    with suppress(ImportError):
        import readline  # noqa: F401
