"""Times of one card and several, with a session whose logits are late."""

from __future__ import annotations

from time import sleep
from types import SimpleNamespace
from typing import Any

from bench.gpu.tensor_parallel import PREFILLS, prefill_ms

LATE = 0.005  # seconds that the device takes after the call has returned


class Logits:
    """Enqueued: there once they are read."""

    def argmax(self, _dim: int) -> Logits:
        return self

    def tolist(self) -> list[int]:
        sleep(LATE)
        return [0]


class Session:
    """It returns before its logits are there, as that of one card does."""

    manifest = SimpleNamespace(model=SimpleNamespace(vocabulary=100))

    def __init__(self) -> None:
        self.held: list[list[int]] = []
        self.prefilled = 0

    def sequence(self, tokens: list[int]) -> list[int]:
        self.held.append(tokens)
        return tokens

    def prefill(self, sequences: list[list[int]]) -> Logits:
        self.prefilled += len(sequences)
        return Logits()

    def release(self, sequence: list[int]) -> None:
        self.held.remove(sequence)


def test_a_prefill_ends_when_the_host_has_its_token() -> None:
    session: Any = Session()
    assert prefill_ms(session, 8) >= LATE * 1e3
    assert session.prefilled == PREFILLS and not session.held
