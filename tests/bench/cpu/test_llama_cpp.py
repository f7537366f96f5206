"""A context of llama.cpp stays for what needs one of the same size, and is freed once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.cpu.peers import Source, llama_cpp
from bench.cpu.peers.llama_cpp import LlamaCpp


class Library:
    """What is asked of contexts, in order; each has a number of its own."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._made = 0

    def __getattr__(self, _: str) -> Any:
        return lambda *given: SimpleNamespace()

    def llama_vocab_n_tokens(self, _: object) -> int:
        return 8

    def llama_init_from_model(self, _: object, params: Any) -> int:
        self._made += 1
        self.asked.append(("made", self._made, params.n_ctx, params.n_seq_max))
        return self._made

    def llama_get_memory(self, handle: int) -> int:
        return handle

    def llama_memory_clear(self, handle: int, data: bool) -> None:
        self.asked.append(("cleared", handle, data))

    def llama_free(self, handle: int) -> None:
        self.asked.append(("freed", handle))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setattr(llama_cpp, "bindings", lambda _: made)
    monkeypatch.setattr(llama_cpp, "_version", lambda _: "llama.cpp")
    monkeypatch.setattr(LlamaCpp, "_run", lambda *given: None)
    return made


@pytest.fixture
def peer(library: Library) -> LlamaCpp:
    return LlamaCpp(Source(Path("checkpoint"), Path("a.gguf"), "bfloat16", 2), Path("tree"))


def test_prompts_of_one_size_share_a_context_that_is_cleared(
    peer: LlamaCpp, library: Library
) -> None:
    for _ in range(3):
        context, _ = peer.prefill([[2] * 100], 1)
        assert context.lengths == [0]
        context.lengths[0] = 100
        peer.release(context)
    assert library.asked == [("made", 1, 256, 1), ("cleared", 1, False), ("cleared", 1, False)]


def test_another_size_has_another_context_after_the_first_is_freed(
    peer: LlamaCpp, library: Library
) -> None:
    peer.release(peer.prefill([[2] * 100], 1)[0])
    peer.release(peer.prefill([[2] * 100] * 4, 200)[0])
    assert library.asked == [("made", 1, 256, 1), ("freed", 1), ("made", 2, 2048, 4)]


def test_of_two_contexts_the_one_that_was_used_last_stays(peer: LlamaCpp, library: Library) -> None:
    both = [peer.prefill([[2]], 1)[0] for _ in range(2)]
    for context in both:
        peer.release(context)
    peer.prefill([[2]], 1)
    assert [each[:2] for each in library.asked] == [
        ("made", 1), ("made", 2), ("freed", 1), ("cleared", 2),
    ]  # fmt: skip
