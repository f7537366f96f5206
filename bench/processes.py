"""Processes that stay up and are told what to do, so that contenders can take turns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import IO, Any


@dataclass
class Running:
    """A process that is up."""

    name: str
    process: subprocess.Popen[bytes]
    connection: Connection
    start_s: float = 0.0

    def ask(self, order: str, **arguments: Any) -> dict[str, Any]:
        """Have it do something, and wait for the answer."""
        self.connection.send((order, arguments))
        return self.answer()

    def wait(self) -> None:
        """Until it is up."""
        self.start_s = self.answer()["start_s"]

    def answer(self) -> dict[str, Any]:
        """What it says next."""
        try:
            answer: dict[str, Any] = self.connection.recv()
        except EOFError:
            status = self.process.wait()
            raise RuntimeError(f"side '{self.name}' ended with {status}: see its log") from None
        return answer

    def end(self) -> None:
        """Ask it to end, and wait."""
        with suppress(OSError):  # it has ended
            self.connection.send(None)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.connection.close()


def start(
    name: str, module: str, folder: Path, environment: Mapping[str, str], log: IO[bytes] | None
) -> Running:
    """Start ``python -m MODULE ADDRESS``; the address is a socket in ``folder``. What it prints
    goes to ``log``, or where what this process prints goes."""
    address = str(folder / name)
    with Listener(address) as listener:
        process = subprocess.Popen(
            [sys.executable, "-m", module, address],
            env=dict(environment),
            stdout=log,
            stderr=log,
        )
        return Running(name, process, listener.accept())
