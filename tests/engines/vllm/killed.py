"""A process of a server is killed while clients listen."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

from tests.engines.processes import left, mapped_shared_memory, named, processes_of
from tests.engines.storm import Visit, stream, told
from tests.engines.vllm.server import Server
from tests.engines.vllm.wire import WIRE

CLIENTS = 12
END = 60.0
"""Seconds in which a server has to end when it can't go on, on two busy cores."""


def assert_that_it_ends(server: Server, title: str, tokens: int) -> None:
    """Kill the process of this title in mid-stream: clients, who ask for so many tokens that none
    of them is done, hear vLLM's own error or lose their connection, the server ends, and neither a
    process nor shared memory is left."""
    running = processes_of(server.process.pid)
    shared = mapped_shared_memory(running)
    visit = Visit((5, 6, 7), tokens)
    with ThreadPoolExecutor(CLIENTS) as clients:
        others = [clients.submit(_heard, server, visit) for _ in range(CLIENTS - 1)]
        events = stream(server.port, WIRE, visit)
        next(events)
        begun = time.monotonic()
        named(running, title).kill()
        heard = [_rest(lambda: list(events)), *(other.result(END) for other in others)]
    assert "answered" not in heard
    assert any("'code': 500" in text for text in heard), heard
    server.process.wait(END)
    assert left(running, END) == []
    assert time.monotonic() - begun < END
    assert [path for path in shared if path.exists()] == []
    assert "EngineDeadError" in server.log.read_text()


def _heard(server: Server, visit: Visit) -> str:
    return _rest(lambda: told(server.port, WIRE, visit))


def _rest(listen: Callable[[], object]) -> str:
    """The error that ends a stream, in words."""
    try:
        listen()
    except (OSError, HTTPException, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "answered"
