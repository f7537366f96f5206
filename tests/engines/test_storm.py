"""Clients see what a server tells, leave when they are to, and notice a stream that breaks off."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.engines.metrics import total
from tests.engines.storm import Visit, Wire, outcomes, storm, stream, told, visits

WIRE = Wire(
    "/stream",
    lambda visit: {"text": list(visit.text), "tokens": visit.tokens},
    lambda events: [event["token"] for event in events],
)
BROKEN, WRONG, REFUSED = (1,), (2,), (3,)


class Counting(BaseHTTPRequestHandler):
    """Streams 0, 1, 2 and so on, unless the text asks for something that fails."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(500 if asked["text"] == list(REFUSED) else 200)
        self.end_headers()
        for token in range(asked["tokens"]):
            self._event(json.dumps({"token": token}))
        if asked["text"] == list(WRONG):
            self._event('{"error": "wrong"}')
        if asked["text"] != list(BROKEN):
            self._event("[DONE]")

    def _event(self, text: str) -> None:
        self.wfile.write(f"data: {text}\n\n".encode())


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Counting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_all_who_stay_see_everything(port: int) -> None:
    those = visits(20, seed=1, longest=9, tokens=7, vocabulary=99)
    assert storm(port, WIRE, those, at_once=4) == [list(range(each.tokens)) for each in those]


def test_who_leaves_has_seen_as_much_as_that(port: int) -> None:
    assert [told(port, WIRE, Visit((9,), 8, leaves)) for leaves in (0, 3)] == [[], [0, 1, 2]]


def test_what_fails_is_raised(port: int) -> None:
    for text, raised in ((BROKEN, ConnectionError), (WRONG, RuntimeError), (REFUSED, RuntimeError)):
        with pytest.raises(raised):
            list(stream(port, WIRE, Visit(text, 2)))
    those = [Visit(BROKEN, 2), Visit((9,), 2)]
    assert outcomes(port, WIRE, those) == ["ConnectionError", "answered"]


def test_the_same_seed_draws_the_same_visits() -> None:
    first, again, other = (
        visits(50, seed=seed, longest=30, tokens=9, vocabulary=99, leaving=0.5)
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert {visit.leaves is None for visit in first} == {True, False}
    assert all(visit.leaves is None or visit.leaves < visit.tokens for visit in first)


def test_a_metric_is_summed_over_the_labels_that_are_not_given() -> None:
    text = '# HELP a b\na{of="x",rank="0"} 2.0\na{of="y",rank="0"} 3.0\nab 7.0\nb 4\n'
    assert total(text, "a") == 5
    assert total(text, "a", of="y") == 3
    assert total(text, "b") == 4
    assert total(text, "c") == 0
