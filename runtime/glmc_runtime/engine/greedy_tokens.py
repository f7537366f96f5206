"""Greedy decode steps whose tokens stay where they are computed: the next step reads them there."""

from __future__ import annotations

from typing import Protocol

import torch

from glmc_runtime.replay.phase import PhaseReplay
from glmc_runtime.replay.step import Step


class GreedyResult(Protocol):
    """The tokens of an enqueued step."""

    def read(self, rows: int) -> list[int]:
        """Wait for them; the one synchronisation of a step. -1 is none: logits not finite."""
        ...


class GreedyLauncher(Protocol):
    """Enqueues decode steps of one batch."""

    def launch(self, step: Step, ahead: bool) -> GreedyResult:
        """Enqueue a step; with ``ahead`` its tokens are those that the newest step of this
        launcher gives, whose rows it has. At most two results are unread at a time."""
        ...


class _PinnedResult:
    """Pinned host memory for the tokens of one step."""

    def __init__(self, rows: int, device: torch.device) -> None:
        on_device = device.type == "cuda"
        self._ids = torch.zeros(rows, dtype=torch.int64, pin_memory=on_device)
        self._sent = torch.cuda.Event() if on_device else None

    def send(self, tokens: torch.Tensor) -> None:
        self._ids[: len(tokens)].copy_(tokens, non_blocking=True)
        if self._sent is not None:
            self._sent.record()

    def read(self, rows: int) -> list[int]:
        if self._sent is not None:
            self._sent.synchronize()
        ids: list[int] = self._ids[:rows].tolist()
        return ids


class LocalGreedy:
    """Steps of up to ``rows`` rows that this process computes."""

    def __init__(self, replay: PhaseReplay, device: torch.device, rows: int) -> None:
        self._replay = replay
        self._results = [_PinnedResult(rows, device) for _ in range(2)]
        # The tokens of the newest step; rows of padding hold 0.
        self._next = torch.zeros(rows, dtype=torch.int64, device=device)
        self._rows = 0

    def launch(self, step: Step, ahead: bool) -> GreedyResult:
        rows = len(step.chunks)
        greedy = self._replay.run_greedy(step, self._next if ahead else None)
        result = self._results[0]
        result.send(greedy)
        self._results.reverse()
        if rows != self._rows:
            self._next.zero_()
            self._rows = rows
        # Where logits are not finite the token is -1, which no embedding has.
        torch.clamp(greedy, min=0, out=self._next[:rows])
        return result
