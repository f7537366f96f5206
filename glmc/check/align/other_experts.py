"""Tokens that went to other experts, and what may differ because of it.

A token that another expert computed is another value from there on, and so is, after the next
attention, each later token of its sequence, in later steps too. How far apart they may be nothing
says, so rows of such tokens are not judged. Layers up to the router, and tokens before, are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BEFORE, AFTER = -1, 1 << 30
"""Places of what comes before the first layer and after the last."""
_NEVER = 1 << 62
UNKNOWN_LENGTH = 1 << 20
"""Of the one sequence that a step is taken for whose sequences are not known."""


class OtherExperts:
    """Tokens by where they are in their sequences, over all steps."""

    def __init__(self) -> None:
        self._lengths = self._before = torch.zeros(0, dtype=torch.long)
        # By place: the first position of each sequence, and all tokens.
        self._first: dict[int, Tensor] = {}
        self._tokens: dict[int, Tensor] = {}

    def begin(self, lengths: Sequence[int]) -> None:
        """What follows is of a step that computes so many tokens of each sequence."""
        if len(self._before) == len(lengths):
            self._before = self._before + self._lengths
        else:
            self._before = torch.zeros(len(lengths), dtype=torch.long)
            self._first, self._tokens = {}, {}
        self._lengths = torch.tensor(lengths, dtype=torch.long)

    def note(self, place: int, tokens: Tensor) -> None:
        """Tokens of the step that a router in layer ``place`` sent elsewhere."""
        sequences, positions = self._positions(tokens)
        first = self._first.setdefault(place, torch.full_like(self._before, _NEVER))
        first.scatter_reduce_(0, sequences, positions, "amin")
        noted = self._tokens.get(place, tokens.new_empty(0))
        self._tokens[place] = torch.cat([noted, _code(sequences, positions)])

    def up_to(self, place: int) -> bool:
        """Whether a router up to this layer has sent anything elsewhere."""
        return any(layer <= place for layer in self._tokens)

    def follow(self, place: int, tokens: Tensor) -> Tensor:
        """Of tokens of the step, which follow another choice where layer ``place`` is computed."""
        sequences, positions = self._positions(tokens)
        follows = torch.zeros(len(tokens), dtype=torch.bool)
        for layer, first in self._first.items():
            if layer < place:
                follows |= positions >= first[sequences]
            elif layer == place:
                follows |= torch.isin(_code(sequences, positions), self._tokens[layer])
        return follows

    def _positions(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The sequence of each token of the step, and its place there."""
        ends = self._lengths.cumsum(0)
        sequences = torch.bucketize(tokens, ends, right=True)
        starts = ends - self._lengths
        return sequences, self._before[sequences] + tokens - starts[sequences]


def _code(sequences: Tensor, positions: Tensor) -> Tensor:
    return (sequences << 40) + positions
