"""Neighbours of one mergeable class become one thunk, and nothing else does."""

from __future__ import annotations

from typing import Any

from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.merging import Mergeable, Merged, failed_member, merged


class _Letter(Mergeable):
    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self) -> None: ...

    @classmethod
    def merge(cls, thunks: tuple[Any, ...]) -> _Word:
        return _Word(thunks)


class _Other(_Letter): ...


class _Word(Merged):
    def __init__(self, letters: tuple[_Letter, ...], place: int | None = None) -> None:
        self.letters, self.place = letters, place

    def __call__(self) -> None: ...

    @property
    def failed(self) -> Thunk | None:
        return None if self.place is None else self.letters[self.place]


def test_neighbours_of_a_class_are_one_in_their_order() -> None:
    a, b, c, d, e = _Letter("a"), _Letter("b"), _Letter("c"), _Other("d"), _Other("e")
    plain: list[Thunk] = [lambda: None, lambda: None]
    first, *rest, last = merged([a, b, plain[0], plain[1], c, d, e])
    assert isinstance(first, _Word) and first.letters == (a, b)
    assert rest == [plain[0], plain[1], c], "a lone one and what can't be merged stay as they are"
    assert isinstance(last, _Word) and last.letters == (d, e)
    assert merged([]) == ()


def test_what_failed_is_the_member() -> None:
    letters = _Letter("a"), _Letter("b")
    word = _Word(letters)
    assert failed_member(word) is word
    broken = _Word(letters, 1)
    assert failed_member(broken) is letters[1]
    assert failed_member(letters[0]) is letters[0]
    assert failed_member(None) is None
