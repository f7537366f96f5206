"""Servers of SGLang's that are forks of a process which has imported it.

SGLang is imported by each of a server's processes, which takes a core ten seconds, and the server
itself starts in three. A fork of a process that has imported it runs the same ``launch_server``,
and its scheduler and its other processes are forks in turn. What only fresh interpreters show, such
as plug-ins that each process finds by itself, is for those tests that start the command.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

MODULE = "sglang.launch_server"
IMPORTED = [
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.detokenizer_manager",
]
_ROOT = str(Path(__file__).parents[3])


class Forked:
    """A fork, with what a :class:`subprocess.Popen` is asked."""

    def __init__(self, process: ForkServerProcess) -> None:
        assert process.pid is not None
        self._process = process
        self.pid = process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(MODULE, timeout or 0)
        return status


def fork(options: Sequence[str], values: Mapping[str, str], folder: Path, log: Path) -> Forked:
    """A server in a session of its own, as the command with these options would start it."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(IMPORTED)
    begun, begins = forks.Pipe(duplex=False)
    process = forks.Process(target=_serve, args=(begins, list(options), dict(values), folder, log))
    process.start()
    begins.close()
    begun.recv()
    return Forked(process)


def processes_are_forks() -> None:
    """From here on, processes that SGLang starts are forks of this one; it asks for fresh ones."""
    multiprocessing.set_start_method("fork", force=True)
    multiprocessing.set_start_method = lambda method, force=False: None  # type: ignore[assignment]


def _serve(
    begins: Connection, options: list[str], values: dict[str, str], folder: Path, log: Path
) -> None:
    os.setsid()
    with open(log, "wb") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    begins.send(None)
    begins.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(values)
    # The compiler of this checkout is none that the engine's interpreter has.
    sys.path[:] = [path for path in sys.path if path not in ("", _ROOT)]
    processes_are_forks()
    sys.argv[1:] = options
    sys.modules.pop(MODULE, None)
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
