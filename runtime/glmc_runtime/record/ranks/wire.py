"""What a recording rank tells its controller, as messages: the calls of a receiver, in order.

A message is JSON; after one that has a tensor its bytes follow in pieces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from glmc_runtime.errors import RankError
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.record.plan_values import RecordedValue

BEGIN, RUN, VALUE, REPLAYED, FACTS = "begin", "run", "value", "replayed", "facts"
_PIECE = 1 << 26
"""Bytes of a message at most."""


class Messages(Protocol):
    """Where messages go, and where they come from."""

    def send(self, message: bytes) -> None: ...
    def receive(self) -> bytes: ...


class ValuesToController:
    """A :class:`~glmc_runtime.record.receiver.Receiver` on a rank."""

    def __init__(self, channel: Messages) -> None:
        self._channel = channel

    def begin(self, step: int, lengths: Sequence[int]) -> None:
        self._say(BEGIN, step=step, lengths=list(lengths))

    def run(self, phase: str, replays: int) -> None:
        self._say(RUN, phase=phase, replays=replays)

    def take(self, each: RecordedValue, rows: Tensor) -> None:
        dtype = str(rows.dtype).removeprefix("torch.")
        self._say(VALUE, name=each.name, dtype=dtype, shape=list(rows.shape))
        flat = rows.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        for piece in flat.split(_PIECE) if len(flat) else ():
            self._channel.send(piece.numpy().tobytes())

    def replayed(self, tokens: int, sequences: int) -> None:
        self._say(REPLAYED, tokens=tokens, sequences=sequences)

    def describe(self, facts: Mapping[str, Any]) -> None:
        self._say(FACTS, facts=dict(facts))

    def _say(self, kind: str, **message: Any) -> None:
        self._channel.send(json.dumps({"kind": kind, **message}).encode())


def read_message(channel: Messages) -> tuple[dict[str, Any], Tensor | None]:
    """The next message of a rank, and its tensor where it has one."""
    message: dict[str, Any] = json.loads(channel.receive())
    if message["kind"] != VALUE:
        return message, None
    tensor = torch.empty(message["shape"], dtype=dtype_of(message["dtype"]))
    flat, place = tensor.reshape(-1).view(torch.uint8), 0
    while place < len(flat):
        piece = bytearray(channel.receive())
        if not 0 < len(piece) <= len(flat) - place:
            raise RankError(
                "a value of a rank is not whole",
                expected=f"{len(flat)} bytes of {message['name']}",
                found=f"{place + len(piece)}",
            )
        flat[place : place + len(piece)] = torch.frombuffer(piece, dtype=torch.uint8)
        place += len(piece)
    return message, tensor
