"""``vllm serve`` in processes of its own, and what its metrics say."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.engines.metrics import total
from tests.engines.vllm.forks import Begin, Process, afresh

PATIENCE = 240.0


class Server:
    """A server that is up, at ``url``; ``log`` is what it has written."""

    def __init__(self, process: Process, port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = log

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return str(answer.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the values of a metric, over those of its labels that are not given."""
        return total(self.get("/metrics"), name, **labels)

    def wait_until_idle(self, seconds: float = 30.0) -> None:
        """Until no request runs."""
        end = time.monotonic() + seconds
        while self.metric("vllm:num_requests_running") or self.metric("vllm:num_requests_waiting"):
            assert time.monotonic() < end, "requests still run"
            time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def launch(
    model: Path,
    log: Path,
    environment: dict[str, str],
    *options: str,
    begin: Begin = afresh,
) -> Server:
    """Start the processes of a server, in a session of their own; it is not up yet."""
    port = free_port()
    words = ["serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    module = "vllm.entrypoints.cli.main"
    process = begin(module, [*words, *options], {**os.environ, **environment}, log)
    return Server(process, port, log)


@contextlib.contextmanager
def serve(
    model: Path,
    log: Path,
    environment: dict[str, str],
    *options: str,
    begin: Begin = afresh,
) -> Iterator[Server]:
    """Start a server, wait until it is healthy, and end it with all its processes."""
    with up(launch(model, log, environment, *options, begin=begin)) as server:
        yield server


@contextlib.contextmanager
def up(server: Server) -> Iterator[Server]:
    """Wait until a server that was started is healthy; end it afterwards."""
    log = server.log
    try:
        end = time.monotonic() + PATIENCE
        while True:
            assert server.process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < end, log.read_text()[-4000:]
            with contextlib.suppress(urllib.error.URLError, OSError):
                server.get("/health")
                break
            time.sleep(0.2)
        yield server
    finally:
        stop(server.process)


def stop(process: Process) -> None:
    """End a server's own process group, first as Ctrl-C does."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
