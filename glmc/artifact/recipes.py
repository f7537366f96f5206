"""Recipes of an artifact whose weights are made of the checkpoint when it is loaded.

Nothing is copied: what the recipes make is hashed, in one pass over the checkpoint for all ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import prod
from queue import Queue
from threading import Thread
from types import TracebackType

from torch import Tensor, uint8

from glmc.artifact.packing import Tally
from glmc.errors import InternalError
from glmc.ir.recipe import (
    Concatenate,
    Dealt,
    First,
    Recipe,
    Selected,
    Source,
    Stack,
    Weight,
    sources,
)
from glmc.weights.checkpoint import Checkpoint
from glmc.weights.file_ranges import pieces_of
from glmc.weights.flat import Data, recipe_shape
from glmc.weights.stream import deal_weight
from glmc_runtime.format.recipe_nodes import (
    Chosen,
    Concatenated,
    Node,
    OnFirst,
    Stacked,
    Stored,
    StoredElements,
    tensors_of,
)
from glmc_runtime.format.recipes import Recipes, StoredTensor, StoredWeight

Elements = Callable[[str], Sequence[StoredElements]]
"""Where the elements of a parameter of the traced module are, by its name."""

_PIECE = 1 << 20
# Pieces that wait for the thread of a rank.
_WAITING = 2


def is_stored(weight: Weight) -> bool:
    """Whether a checkpoint holds what a weight is made of. What is computed, such as a table of
    rope, has other last bits on another machine, and is packed."""
    return bool(sources(weight.recipe))


def made_recipes(
    weights: Sequence[Weight], source: Checkpoint, ranks: int, chunk_bytes: int, tally: Tally
) -> Recipes:
    """The recipes of stored weights with the hashes of what they make; raises what
    :func:`deal_weight` does."""
    found: dict[str, StoredWeight] = {}

    def elements(parameter: str) -> list[StoredElements]:
        return [
            StoredElements(part.name, part.first, prod(part.shape))
            for part in source.parts(parameter)
        ]

    with ExitStack() as stack:
        hashers = [stack.enter_context(_Hasher(rank)) for rank in range(ranks)]
        for weight in weights:
            tally.begins(weight.name)
            for rank, data in deal_weight(weight, source, chunk_bytes, ranks):
                targets = hashers if rank is None else [hashers[rank]]
                for hasher in targets:
                    hasher.put(data)
                tally.advance(len(data) * data.dtype.itemsize * len(targets))
            hashes = tuple(hasher.digest() for hasher in hashers)
            found[weight.name] = StoredWeight(node_of(weight, elements, ranks), hashes)
    names = {name for weight in found.values() for name in tensors_of(weight.recipe)}
    tensors = {
        name: StoredTensor(each.path.name, str(each.dtype).removeprefix("torch."), each.shape)
        for name, each in source.tensors.items()
        if name in names
    }
    return Recipes(str(source.directory.resolve()), tensors, found)


class _Hasher:
    """Hashes the weights of a rank, one after the other, in a thread."""

    def __init__(self, rank: int) -> None:
        self._digest = hashlib.sha256()
        self._error: BaseException | None = None
        self._waiting: Queue[Data | None] = Queue(_WAITING)
        self._thread = Thread(target=self._follow, name=f"hash of rank {rank}", daemon=True)
        self._thread.start()

    def put(self, data: Data) -> None:
        """Raises what was raised by a piece before, such as CheckpointError."""
        if self._error is not None:
            raise self._error
        self._waiting.put(data)

    def digest(self) -> str:
        """The sha256 of what was put since the last one."""
        self._waiting.join()
        if self._error is not None:
            raise self._error
        digest, self._digest = self._digest, hashlib.sha256()
        return digest.hexdigest()

    def __enter__(self) -> _Hasher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _follow(self) -> None:
        buffer = memoryview(bytearray(_PIECE))
        while (data := self._waiting.get()) is not None:
            try:
                if self._error is None:
                    self._add(data, buffer)
            except BaseException as error:  # noqa: BLE001 - raised where pieces are put
                self._error = error
            self._waiting.task_done()

    def _add(self, data: Data, buffer: memoryview) -> None:
        if isinstance(data, Tensor):
            self._digest.update(data.flatten().view(uint8).numpy().data)
        else:
            for piece in pieces_of(data, buffer):
                self._digest.update(piece)


def node_of(weight: Weight, elements: Elements, ranks: int) -> Node:
    """The recipe of a stored weight as the runtime follows it; raises :class:`InternalError` for
    one that is stored in part."""
    return _node(weight, weight.recipe, elements, ranks)


def _node(weight: Weight, recipe: Recipe, elements: Elements, ranks: int) -> Node:
    shape = recipe_shape(recipe)
    if isinstance(recipe, Source):
        return Stored(tuple(elements(recipe.name)), shape)
    if isinstance(recipe, (Concatenate, Stack)):
        parts = tuple(_node(weight, part, elements, ranks) for part in recipe.parts)
        return (Stacked if isinstance(recipe, Stack) else Concatenated)(parts, shape)
    if isinstance(recipe, First):
        return OnFirst(_node(weight, recipe.recipe, elements, ranks), shape)
    if isinstance(recipe, (Dealt, Selected)):
        runs = tuple(
            tuple((run.start, run.length) for run in each)
            for each in (
                [recipe.layout.runs(rank) for rank in range(ranks)]
                if isinstance(recipe, Dealt)
                else [recipe.runs] * ranks
            )
        )
        return Chosen(_node(weight, recipe.recipe, elements, ranks), recipe.axis, runs, shape)
    raise InternalError(
        f"weight '{weight.name}' is made of tensors of the checkpoint and of others",
        found=type(recipe).__name__,
    )
