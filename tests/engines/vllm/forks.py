"""Processes that begin with vLLM imported: one has imported it, which takes ten seconds of a core,
and each further one is a fork of it. It is otherwise as new: nothing of ours is imported but the
platform, no plug-in is loaded, no thread runs. What it starts is forked, too, unless its
environment has another ``VLLM_WORKER_MULTIPROC_METHOD``.

``python -m tests.engines.vllm.forks`` is the process that is forked: it reads a line of JSON for
each fork, and writes one when it has begun and one when it has ended.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, NoReturn, Protocol

ROOT = Path(__file__).parents[3]
FORK = {"VLLM_WORKER_MULTIPROC_METHOD": "fork"}
START = 120.0
"""Seconds in which the process that is forked has imported everything, on two busy cores."""
IMPORTED = (
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.cli.benchmark.main",
    "vllm.v1.engine.core",
    "vllm.v1.worker.gpu_model_runner",
    "vllm.v1.worker.cpu_model_runner",
)


class Process(Protocol):
    """What is asked of a process, as :class:`subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Begin(Protocol):
    """How a process begins, in a session of its own, that runs a module and writes into a log."""

    def __call__(
        self, module: str, words: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> Process: ...


def afresh(
    module: str, words: Sequence[str], environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """A process of a new interpreter."""
    with log.open("ab") as written:
        return subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdout=written,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=ROOT,
            start_new_session=True,
        )


class Fork:
    """A process that is not this one's child: how it has ended is told by the one that it is of."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None
        self._ended = Event()

    def end(self, status: int) -> None:
        self._status = status
        self._ended.set()

    def poll(self) -> int | None:
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0.0)
        assert self._status is not None
        return self._status


class Forks:
    """The process that is forked, as others see it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("wb") as written:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
                env={**os.environ, "OMP_NUM_THREADS": "1"},  # read when torch is imported
                cwd=ROOT,
                start_new_session=True,  # it ends the forks, however this process ends
            )
        self._lock = Lock()
        self._begun: SimpleQueue[Fork] = SimpleQueue()
        self._running: dict[int, Fork] = {}
        self._listener = Thread(target=self._listen, daemon=True)
        self._listener.start()

    def begin(
        self, module: str, words: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> Fork:
        """A fork that runs a module with nothing but this environment."""
        order = {"module": module, "words": list(words), "log": str(log)}
        order["environment"] = {**FORK, **environment}
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            try:
                return self._begun.get(timeout=START)
            except Empty:
                raise RuntimeError(self._log.read_text(errors="replace")) from None

    def end(self) -> None:
        """With the forks that still run."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(START)
        self._listener.join()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "status" in said:
                self._running.pop(said["pid"]).end(said["status"])
            else:
                fork = self._running[said["pid"]] = Fork(said["pid"])
                self._begun.put(fork)
        for fork in self._running.values():
            fork.end(-signal.SIGKILL)


def main() -> None:
    """Fork for each line that is read, until there is none; returns in no process but a fork."""
    orders, answers = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    for name in IMPORTED:
        with contextlib.suppress(ImportError):  # of another release
            importlib.import_module(name)
    with contextlib.suppress(ImportError):  # titles need the environment of the process's begin
        importlib.import_module("setproctitle").getproctitle()
    forked: set[int] = set()
    rest = b""
    while True:
        if select.select([orders], [], [], 0.05)[0]:
            read = os.read(orders, 1 << 16)
            if not read:
                _leave(forked)
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                begun, begins = os.pipe()
                pid = os.fork()
                if pid == 0:
                    os.setsid()
                    for file in (orders, answers, begun, begins):
                        os.close(file)
                    return _run(json.loads(line))
                os.close(begins)
                os.read(begun, 1)  # the fork has closed its end
                os.close(begun)
                forked.add(pid)
                _say(answers, pid=pid)
        for pid in list(forked):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                forked.remove(pid)
                _say(answers, pid=pid, status=os.waitstatus_to_exitcode(status))


def _run(order: dict[str, Any]) -> None:
    """What the fork does: its interpreter ends with the module, as with ``python -m``."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for file, place in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(file, place)
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = [order["module"], *order["words"]]
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


def _say(answers: int, **said: int) -> None:
    os.write(answers, json.dumps(said).encode() + b"\n")


def _leave(forked: set[int]) -> NoReturn:
    for pid in forked:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
