"""glmc: a session over an artifact, loaded as anybody loads it, hashes included.

``source.tree`` is another checkout of glmc, an earlier one say, whose runtime is imported in place
of this one's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import glmc_runtime
from bench.cpu.peers import Source
from glmc_runtime.generate.session import Session


class Ours:
    """A session; ``hashing`` ends with the last report of its progress."""

    prefills = True
    version = f"glmc {glmc_runtime.__version__}, torch {torch.__version__}"

    def __init__(self, artifact: Path) -> None:
        began = ended = perf_counter()

        def progress(done: int, total: int) -> None:
            nonlocal ended
            ended = perf_counter()

        self.session: Session = glmc_runtime.load(artifact, progress=progress)
        self.hashing: float | None = ended - began

    def prefill(self, prompts: Sequence[list[int]], room: int) -> tuple[Any, Any]:
        sequences = [self.session.sequence(prompt) for prompt in prompts]
        return sequences, self.session.prefill(sequences)

    def decode(self, sequences: Any, tokens: list[int]) -> Any:
        return self.session.decode(sequences, tokens)

    def release(self, sequences: Any) -> None:
        for sequence in sequences:
            self.session.release(sequence)


def load(source: Source) -> Ours:
    place = Path(str(sys.modules["glmc_runtime"].__file__)).resolve()
    if source.tree is not None and not place.is_relative_to(source.tree.resolve()):
        raise RuntimeError(f"the runtime that was imported is that of {place}")
    peer = Ours(source.made)
    if source.tree is not None:
        peer.version += f", {source.tree}"
    return peer
