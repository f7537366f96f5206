"""Many clients of a server at once: some stay to the end, others leave in mid-stream.

Everything that is drawn is drawn from a seed, so that the same visits come again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

AT_ONCE = 24
PATIENCE = 120.0
"""Seconds that a client waits for the next event."""

Event = dict[str, Any]


@dataclass(frozen=True)
class Visit:
    """A prompt of token ids, how many tokens are asked for, and after how many events of its answer
    the client leaves: 0 is before the first one, None never."""

    text: tuple[int, ...]
    tokens: int
    leaves: int | None = None


@dataclass(frozen=True)
class Wire:
    """How an engine is asked for greedy tokens as a stream: the path, the body of a visit, and the
    new tokens that a list of events tells."""

    path: str
    body: Callable[[Visit], dict[str, Any]]
    tokens: Callable[[Sequence[Event]], list[int]]


def visits(
    count: int, *, seed: int, longest: int, tokens: int, vocabulary: int, leaving: float = 0.0
) -> list[Visit]:
    """Ragged prompts of at most ``longest`` random tokens, and up to ``tokens`` new ones; a part of
    the clients leaves in mid-stream."""
    chance = random.Random(seed)

    def one() -> Visit:
        text = tuple(chance.randrange(4, vocabulary) for _ in range(chance.randint(1, longest)))
        asked = chance.randint(2, tokens)
        return Visit(text, asked, chance.randrange(asked) if chance.random() < leaving else None)

    return [one() for _ in range(count)]


def stream(port: int, wire: Wire, visit: Visit) -> Iterator[Event]:
    """The events of one visit until its client leaves, which closes the connection.

    Raises :class:`RuntimeError` with the server's words for any other status than 200 and for an
    error in mid-stream, :class:`ConnectionError` where the server breaks off.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    answer: HTTPResponse | None = None
    try:
        head = {"Content-Type": "application/json", "Connection": "close"}
        connection.request("POST", wire.path, json.dumps(wire.body(visit)), head)
        if visit.leaves == 0:
            return
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {answer.read().decode(errors='replace')}")
        for number, event in enumerate(_events(answer), 1):
            yield event
            if number == visit.leaves:
                return
    finally:
        if answer is not None:
            answer.close()
        connection.close()


def told(port: int, wire: Wire, visit: Visit) -> list[int]:
    """The new tokens that a client has seen."""
    return wire.tokens(list(stream(port, wire, visit)))


def storm(port: int, wire: Wire, those: Sequence[Visit], at_once: int = AT_ONCE) -> list[list[int]]:
    """What each client has seen, so many of them there at once. The first failure is raised."""
    with ThreadPoolExecutor(at_once) as clients:
        return list(clients.map(lambda visit: told(port, wire, visit), those))


def outcomes(port: int, wire: Wire, those: Sequence[Visit], at_once: int = AT_ONCE) -> list[str]:
    """What ends each visit while a server may end: "answered", or the name of a failure."""

    def one(visit: Visit) -> str:
        try:
            told(port, wire, visit)
        except (OSError, HTTPException, RuntimeError, ValueError) as error:
            return type(error).__name__
        return "answered"

    with ThreadPoolExecutor(at_once) as clients:
        return list(clients.map(one, those))


def _events(answer: HTTPResponse) -> Iterator[Event]:
    """Server-sent events that are JSON, up to the last one, ``[DONE]``. Without it the server has
    broken off."""
    for line in answer:
        data = line.strip().removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        if data:
            event = json.loads(data)
            if "error" in event:
                raise RuntimeError(event["error"])
            yield event
    raise ConnectionError("the stream has no end")
