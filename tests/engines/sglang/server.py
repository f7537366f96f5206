"""A server of SGLang's in processes of its own, and what to ask it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tests.engines.metrics import total
from tests.engines.sglang.forked import MODULE, fork
from tests.engines.sglang.support import MODELS, ROOT

START_SECONDS = 300.0


class Process(Protocol):
    """The first process of a server, which begins a session."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


Begin = Callable[[Sequence[str], Mapping[str, str], Path, Path], Process]


class Server:
    def __init__(self, process: Process, port: int, model: str, log: Path) -> None:
        self.process = process
        self.port = port
        self.address = f"http://127.0.0.1:{port}"
        self.model = model
        self._log = log

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> str:
        with urlopen(self.address + path, timeout=60) as answer:
            text: str = answer.read().decode()
            return text

    def post(self, path: str, body: dict[str, Any], status: int = 200) -> Any:
        """The answer, which must come with this status."""
        head = {"Content-Type": "application/json"}
        request = Request(self.address + path, json.dumps(body).encode(), head)
        try:
            with urlopen(request, timeout=120) as answer:
                found, text = answer.status, answer.read()
        except HTTPError as error:
            found, text = error.code, error.read()
        assert found == status, text.decode()
        return json.loads(text)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values; the server was started with --enable-metrics."""
        return total(self.get("/metrics"), name, **labels)

    def load(self) -> dict[str, Any]:
        """What the scheduler holds at this moment: requests that run and wait, places in use."""
        (load,) = json.loads(self.get("/v1/loads?include=core"))["loads"]
        found: dict[str, Any] = load
        return found

    def wait_until_idle(self, seconds: float = 30.0) -> None:
        """Until no request runs or waits."""
        ends = time.monotonic() + seconds
        while (load := self.load())["num_running_reqs"] or load["num_waiting_reqs"]:
            assert time.monotonic() < ends, load
            time.sleep(0.1)

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Until it answers; raises where it ends instead."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if self.process.poll() is not None:
                raise AssertionError(f"the server has ended:\n{self.log()[-4000:]}")
            try:
                self.get("/health")
                return
            except (URLError, OSError):
                time.sleep(0.3)
        raise AssertionError(f"no answer in {seconds} s:\n{self.log()[-4000:]}")


def command(
    options: Sequence[str], values: Mapping[str, str], folder: Path, log: Path
) -> subprocess.Popen[bytes]:
    """A server by its command: each of its processes is a fresh interpreter."""
    with open(log, "wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", MODULE, *options],
            stdout=output,
            stderr=output,
            env=dict(values),
            cwd=folder,
            start_new_session=True,
        )


@contextmanager
def started(
    model: str, artifact: str | None, *options: str, begin: Begin = fork, **environment: str
) -> Iterator[Server]:
    """The processes of a server; all are gone afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = str(MODELS / model)
    plain = ["--model-path", path, "--served-model-name", model, "--device", "cpu"]
    plain += ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    plain += ["--max-total-tokens", "4096", "--mem-fraction-static", "0.3"]
    values = {**os.environ, **environment}
    values.pop("GLMC_ARTIFACT", None)
    # The compiler of this checkout is none that the engine's interpreter has.
    paths = values.get("PYTHONPATH", "").split(os.pathsep)
    values["PYTHONPATH"] = os.pathsep.join(path for path in paths if path != str(ROOT))
    if artifact is not None:
        values["GLMC_ARTIFACT"] = artifact
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        process = begin([*plain, "--skip-server-warmup", *options], values, Path(folder), log)
        try:
            yield Server(process, port, path, log)
        finally:
            _end(process)


@contextmanager
def serving(
    model: str, artifact: str | None, *options: str, begin: Begin = fork, **environment: str
) -> Iterator[Server]:
    """A server that answers."""
    with started(model, artifact, *options, begin=begin, **environment) as server:
        server.wait()
        yield server


def _end(process: Process) -> None:
    """Ask the group to end, then make it."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            continue
