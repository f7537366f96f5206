"""How vLLM is asked for greedy tokens as a stream (:mod:`tests.engines.storm`)."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any
from urllib.request import Request, urlopen

from tests.engines.storm import PATIENCE, Event, Visit, Wire, storm
from tests.engines.vllm.reference import Answer
from tests.engines.vllm.server import Server


def _body(visit: Visit) -> dict[str, Any]:
    return {
        "model": "tiny",
        "prompt": list(visit.text),
        "max_tokens": visit.tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "return_token_ids": True,
    }


def _tokens(events: Sequence[Event]) -> list[int]:
    return [token for event in events for token in event["choices"][0]["token_ids"] or ()]


WIRE = Wire("/v1/completions", _body, _tokens)


def visit(answer: Answer, leaves: int | None = None) -> Visit:
    """A client that asks for an answer's tokens."""
    return Visit(tuple(answer.prompt), len(answer.tokens), leaves)


def leaving(answers: Sequence[Answer], number: int, seed: int) -> list[tuple[Answer, Visit]]:
    """Clients of whom a third leave before they hear anything and a third later, at random."""
    chance = random.Random(seed)
    made = []
    for answer in chance.choices(answers, k=number):
        leaves = chance.choice((0, chance.randrange(1, len(answer.tokens)), None))
        made.append((answer, visit(answer, leaves)))
    return made


def wrong(server: Server, those: Sequence[tuple[Answer, Visit]]) -> list[tuple[Visit, list[int]]]:
    """The clients, sent as a storm, that have heard something else than the answer, or too little
    of it."""
    heard = storm(server.port, WIRE, [each for _, each in those])
    return [
        (each, tokens)
        for (answer, each), tokens in zip(those, heard, strict=True)
        if not answer.begins(tokens, each.tokens if each.leaves is None else each.leaves)
    ]


def differing(server: Server, answers: Sequence[Answer]) -> list[tuple[Visit, list[int]]]:
    """The same for answers that are all heard to their end."""
    return wrong(server, [(answer, visit(answer)) for answer in answers])


def differing_in_one(server: Server, answers: Sequence[Answer]) -> list[list[int]]:
    """The same for answers of one length that are asked for in one request, so that all of them
    wait at once whatever else the machine does: prompts."""
    body = _body(visit(answers[0])) | {
        "prompt": [answer.prompt for answer in answers],
        "stream": False,
    }
    head = {"Content-Type": "application/json"}
    asked = Request(server.url + WIRE.path, json.dumps(body).encode(), head)
    with urlopen(asked, timeout=PATIENCE) as heard:
        choices = {each["index"]: each["token_ids"] for each in json.load(heard)["choices"]}
    return [
        answer.prompt for place, answer in enumerate(answers) if not answer.agrees(choices[place])
    ]
