"""Peers of the decode benchmark, each in a module of its own, which only its own process imports.

A module has ``load(source)``, which gives a :class:`Peer`; its imports are timed apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

OURS, BEFORE, LLAMA_CPP, EAGER = "glmc", "before", "llama.cpp", "eager"
INDUCTOR = "AOTInductor"
MODULES = {
    EAGER: "bench.cpu.peers.eager",
    "torch.compile": "bench.cpu.peers.compiled",
    INDUCTOR: "bench.cpu.peers.aot",
    LLAMA_CPP: "bench.cpu.peers.llama_cpp",
    BEFORE: "bench.cpu.peers.ours",
    OURS: "bench.cpu.peers.ours",
}


@dataclass(frozen=True)
class Source:
    """What a peer loads: a checkpoint, or what was ``made`` of it (an artifact, a GGUF file).

    ``tree`` is the folder that a peer's code comes from, where it is not installed. ``exact`` asks
    for arithmetic in the dtype throughout, where a peer's defaults have less.
    """

    checkpoint: Path
    made: Path
    dtype: str
    threads: int
    tree: Path | None = None
    exact: bool = False


class Peer(Protocol):
    """A loaded model. Logits are rows of a tensor or an array, one for each sequence.

    ``version`` says what it is, ``prefills`` whether its prefill is its own, and ``hashing`` how
    many seconds of its load went into comparing hashes, None where there are none.
    """

    version: str
    prefills: bool
    hashing: float | None

    def prefill(self, prompts: Sequence[list[int]], room: int) -> tuple[Any, Any]:
        """Sequences of these prompts with room for so many more tokens, and their logits."""

    def decode(self, sequences: Any, tokens: list[int]) -> Any:
        """The logits behind one more token of each."""

    def release(self, sequences: Any) -> None:
        """Give their memory back."""
