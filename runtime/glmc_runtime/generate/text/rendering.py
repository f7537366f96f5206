"""Render a chat template within bounds of time and memory.

One process of the program :mod:`glmc_runtime.generate.text.render_process` serves all of this
process. It is started by the first chat, kept, and ended when a template goes beyond a limit.
Threads take turns; a forked child starts its own.
"""

from __future__ import annotations

import atexit
import importlib.metadata
import importlib.util
import json
import marshal
import os
import selectors
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from glmc_runtime.errors import ArtifactError, FileError, MissingPackageError, RequestError
from glmc_runtime.generate.text.packages import require
from glmc_runtime.generate.text.render_process import CPU_SECONDS, MEMORY, OUT_OF_MEMORY, TEXT

MINIMUM_JINJA = (3, 1, 6)  # the sandbox of older ones has known ways out
_START_SECONDS = 60.0
_WALL_SECONDS = 30.0  # a process that waits takes no processor time; a busy machine is slow
_LARGEST_REPLY = 1 << 30


class _EndedError(Exception):
    """The process is gone, or does not answer."""


class RenderProcess:
    """The process and its two pipes."""

    def __init__(self) -> None:
        program = Path(__file__).with_name("render_process.py")
        command = [sys.executable, "-I", "-S", str(program), *_folders()]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise OSError("the pipes of the process are missing")
        self._requests, self._replies = self._process.stdin, self._process.stdout
        try:
            for stream in (self._requests, self._replies):
                os.set_blocking(stream.fileno(), False)
            self._receive(monotonic() + _START_SECONDS)
        except BaseException:
            self.end()
            raise

    def ask(self, request: bytes) -> bytes:
        """The reply to a request; raises :class:`_EndedError`, after which this can't be used."""
        deadline = monotonic() + _WALL_SECONDS
        self._send(len(request).to_bytes(8, "big") + request, deadline)
        return self._receive(deadline)

    def _send(self, data: bytes, deadline: float) -> None:
        left = memoryview(data)
        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_WRITE)
            while left:
                _wait(selector, deadline)
                try:
                    left = left[os.write(self._requests.fileno(), left) :]
                except BrokenPipeError as error:
                    raise _EndedError from error

    def _receive(self, deadline: float) -> bytes:
        data, wanted = bytearray(), 8
        with selectors.DefaultSelector() as selector:
            selector.register(self._replies, selectors.EVENT_READ)
            while len(data) < wanted:
                _wait(selector, deadline)
                piece = os.read(self._replies.fileno(), 1 << 20)
                if not piece:
                    raise _EndedError
                data += piece
                if wanted == 8 and len(data) >= 8:
                    wanted += int.from_bytes(data[:8], "big")
                    if wanted > _LARGEST_REPLY:
                        raise _EndedError
        return bytes(data[8:])

    def end(self) -> int:
        """End the process and return its status, negative for a signal."""
        try:
            status = self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._close()
        return status

    def finish(self) -> None:
        """Let an idle process end by itself."""
        with suppress(OSError):
            self._requests.close()
        self.end()

    def abandon(self) -> None:
        """Forget a process that belongs to the parent of this one."""
        self._process.returncode = 0
        self._close()

    def _close(self) -> None:
        for stream in (self._requests, self._replies):
            with suppress(OSError):
                stream.close()


class Renderer:
    """Keeps one process; ``lock`` lets one thread at a time ask it."""

    def __init__(self) -> None:
        self.process: RenderProcess | None = None
        self.lock = threading.Lock()

    def ask(self, request: bytes) -> bytes:
        """The reply; raises GlmcErrors for a process that ended or can't be started."""
        with self.lock:
            try:
                if self.process is None:
                    self.process = _started()
                return self.process.ask(request)
            except BaseException as error:
                # Also for an interrupt: a reply that nobody took would answer the next request.
                process, self.process = self.process, None
                status = None if process is None else process.end()
                if isinstance(error, _EndedError):
                    raise _beyond(status) from None
                raise


_renderer = Renderer()


def render(template: str, variables: dict[str, Any]) -> str:
    """The text of a template.

    Raises :class:`ArtifactError` for a template that can't be read, :class:`RequestError` for one
    that refuses these messages, fails on them or goes beyond a limit, and
    :class:`MissingPackageError`.
    """
    _require_jinja()
    try:
        request = marshal.dumps((template, variables))
    except ValueError as error:
        raise RequestError(f"the messages can't be given to a template: {error}") from error
    answer = json.loads(_renderer.ask(request))
    problem, stage = answer.get("error"), answer.get("stage")
    if stage is None:
        text: str = answer["text"]
        return text
    if stage == "template":
        raise ArtifactError(
            f"the chat template can't be read: {problem}",
            remedy="take the chat template that was published with the checkpoint",
        )
    if stage == "length":
        raise RequestError(
            "the chat template writes too much",
            expected=f"{TEXT >> 20} Mi characters for a short chat, more for a long one",
            found=str(problem),
        )
    verb = "refuses these messages" if stage == "refusal" else "fails on these messages"
    raise RequestError(f"the chat template {verb}: {problem}")


def _beyond(status: int | None) -> RequestError:
    """Why the process ended, by its exit status."""
    remedy = "shorten the messages, or take the template that was published with the checkpoint"
    if status == -signal.SIGPROF:
        problem, limit = "takes too long", f"{CPU_SECONDS:g} s of a processor, more for a long chat"
    elif status == OUT_OF_MEMORY:
        problem, limit = "takes too much memory", f"{MEMORY >> 20} MiB, more for a long chat"
    elif status == -signal.SIGKILL:
        problem, limit = "was stopped", f"an answer within {_WALL_SECONDS:g} s"
    else:
        problem, limit = "ended its process", f"a text; the exit status is {status}"
    return RequestError(f"the chat template {problem}", expected=limit, remedy=remedy)


def _started() -> RenderProcess:
    if not sys.executable:
        raise FileError("chat templates need a process of their own, and Python's path is unknown")
    try:
        return RenderProcess()
    except (OSError, _EndedError) as error:
        reason = getattr(error, "strerror", None) or "it ended at once"
        raise FileError(
            f"the process that renders chat templates can't be started: {reason}",
            place=sys.executable,
            remedy="allow this program to start processes, or pass prompts without a chat",
        ) from error


def _wait(selector: selectors.BaseSelector, deadline: float) -> None:
    if not selector.select(max(0.0, deadline - monotonic())):
        raise _EndedError


def _folders() -> list[str]:
    """Where jinja2 and markupsafe are imported from."""
    specs = (importlib.util.find_spec(name) for name in ("jinja2", "markupsafe"))
    folders = [str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin]
    return list(dict.fromkeys(folders))


def _require_jinja() -> None:
    require("jinja2", "chat templates")
    version = importlib.metadata.version("jinja2")
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if numbers < MINIMUM_JINJA:
        raise MissingPackageError(
            "chat templates need a newer jinja2: its sandbox has known ways out",
            expected=".".join(map(str, MINIMUM_JINJA)),
            found=version,
            remedy="pip install --upgrade jinja2",
        )


def _after_fork() -> None:
    """In a forked child: the pipes and the lock are the parent's."""
    global _renderer
    old, _renderer = _renderer, Renderer()
    if old.process is not None:
        old.process.abandon()


def _at_exit() -> None:
    process, _renderer.process = _renderer.process, None
    if process is not None:
        process.finish()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
