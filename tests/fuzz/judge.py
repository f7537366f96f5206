"""What a damaged artifact does: refused with a code, the same answers, others, or a fault.

Each case runs in a process that may die, hang or run out of memory without harm to the rest.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.fuzz.damage import apply

SECONDS = 60.0
MEMORY = 2 << 30  # beside what the process has when it begins
PROMPT = [5, 6, 7, 8, 9]
MESSAGES = [{"role": "user", "content": "Return"}]


class Outcome(Enum):
    REFUSED = "refused with a code"
    SAME = "loads, same answers"
    OTHER = "loads, other answers, hashes put right"
    SILENT = "loads, other answers, hashes not put right"
    EXCEPTION = "bare exception"
    CRASH = "crash"
    HANG = "hang"


FAULTS = (Outcome.SILENT, Outcome.EXCEPTION, Outcome.CRASH, Outcome.HANG)


@dataclass(frozen=True)
class Verdict:
    """One case. ``damage`` says what was changed, ``text`` what came of it."""

    name: str
    damage: str
    outcome: Outcome
    text: str


def verdicts(artifact: Path, target: str, numbers: Iterable[int]) -> Iterator[Verdict]:
    """The cases ``target:number``, one after the other."""
    worker = _Worker(artifact)
    try:
        for number in numbers:
            yield worker.verdict(f"{target}:{number}")
    finally:
        worker.end()


class _Worker:
    """A process that takes names of cases, and is replaced when it dies or hangs."""

    def __init__(self, artifact: Path) -> None:
        self._artifact = artifact
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, self._artifact), daemon=True)
        self._process.start()
        there.close()
        if not self._pipe.poll(SECONDS) or self._pipe.recv() != "ready":
            raise RuntimeError("the artifact does not load before it is damaged")

    def verdict(self, name: str) -> Verdict:
        self._pipe.send(name)
        if self._pipe.poll(SECONDS):
            with contextlib.suppress(EOFError):
                found: Verdict = self._pipe.recv()
                return found
            self._process.join()
            outcome, text = Outcome.CRASH, f"exit status {self._process.exitcode}"
        else:
            outcome, text = Outcome.HANG, f"more than {SECONDS:g} s"
        self.end()
        self._start()
        return Verdict(name, _damage_of(self._artifact, name), outcome, text)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _damage_of(artifact: Path, name: str) -> str:
    with _damaged(artifact, name) as (_, damage, _rehashed):
        return damage


@contextlib.contextmanager
def _damaged(artifact: Path, name: str) -> Iterator[tuple[Path, str, bool]]:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(artifact, Path(folder, "artifact")))
        yield (copy, *apply(copy, name))


def _serve(pipe: Connection, artifact: Path) -> None:
    import torch

    torch.set_num_threads(1)  # others run beside it
    warnings.simplefilter("ignore")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        wanted = _answers(artifact)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        pipe.send("ready")
        while True:
            pipe.send(judge(artifact, pipe.recv(), wanted))


def judge(artifact: Path, name: str, wanted: list[Any]) -> Verdict:
    """Damage a copy and load it; ``wanted`` are the answers of the artifact as it was."""
    from glmc_runtime.errors import GlmcError

    with _damaged(artifact, name) as (copy, damage, rehashed):
        try:
            found = _answers(copy)
        except GlmcError as error:
            return Verdict(name, damage, Outcome.REFUSED, f"{error.code} {error.message}")
        except Exception as error:  # noqa: BLE001 - what is looked for
            text = f"{type(error).__name__}: {error}"
            return Verdict(name, damage, Outcome.EXCEPTION, text)
        if found == wanted:
            return Verdict(name, damage, Outcome.SAME, "")
        outcome = Outcome.OTHER if rehashed else Outcome.SILENT
        return Verdict(name, damage, outcome, f"{found} for {wanted}")


def _answers(artifact: Path) -> list[Any]:
    """Greedy tokens, and the ids of a text and of a chat. Loading is all that target cuda can do
    on a machine without a GPU, where a step would take seconds in Triton's interpreter."""
    import glmc_runtime
    from glmc_runtime.errors import RequestError

    session = glmc_runtime.load(artifact, kv_blocks=8)
    answers: list[Any] = []
    if session.manifest.guards.target != "cuda":
        few = {"max_new_tokens": 4, "ignore_eos": True}
        greedy = session.generate([PROMPT], generation_config=False, **few)
        drawn = session.generate([PROMPT], seed=0, **few)
        answers += [greedy[0].tokens, drawn[0].tokens]
    with contextlib.redirect_stdout(io.StringIO()):
        for encode, what in ((session.text.encode, "Return"), (session.text.encode_chat, MESSAGES)):
            try:
                answers.append(encode(what))
            except RequestError as error:
                answers.append(error.code)
    return answers
