"""A process of a server is killed while clients listen."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from threading import Event

from tests.engines.processes import left, mapped_shared_memory, named, processes_of
from tests.engines.storm import PATIENCE, Visit, stream
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
    first = Event()
    with ThreadPoolExecutor(CLIENTS) as clients:
        listening = [clients.submit(_heard, server, visit, first) for _ in range(CLIENTS)]
        # Of any client: on a busy machine the last one begins when others are nearly done.
        assert first.wait(PATIENCE)
        begun = time.monotonic()
        named(running, title).kill()
        heard = [client.result(END) for client in listening]
    assert "answered" not in heard, heard
    assert any("'code': 500" in text for text in heard), heard
    server.process.wait(END)
    assert left(running, END) == []
    assert time.monotonic() - begun < END
    assert [path for path in shared if path.exists()] == []
    assert "EngineDeadError" in server.log.read_text()


def _heard(server: Server, visit: Visit, first: Event) -> str:
    """The error that ends a client's stream, in words; its first token is said to the others."""
    try:
        for _ in stream(server.port, WIRE, visit):
            first.set()
    except (OSError, HTTPException, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "answered"
