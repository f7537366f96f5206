"""Make a rank's weights from the checkpoint, by the recipes of the artifact.

Of each stored tensor only the window that the rank has is read, most of it straight to its place.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from pathlib import Path

import torch

from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.json_file import json_of
from glmc_runtime.format.recipe_nodes import Node, Stored, tensors_of
from glmc_runtime.format.recipes import RECIPES, Recipes, recipes_from_json
from glmc_runtime.loading.checkpoint_files import CheckpointFiles, memory_of
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.loading.recipe_places import Window, places_of, whole

_BLOCK = 16 << 20
# Shorter stretches of rows are not read one by one: the rows, of up to a block, are read whole.
_SHORT = 64 << 10
_THREADS = 4


def recipes_of(artifact: Artifact) -> Recipes:
    """The recipes of an artifact that has some; raises :class:`ArtifactError`."""
    data = artifact.files.read(RECIPES)
    return recipes_from_json(
        json_of(data, RECIPES, str(artifact.path / RECIPES)), artifact.manifest
    )


def made_weights(
    artifact: Artifact, device: torch.device, checkpoint: str | None
) -> dict[str, torch.Tensor]:
    """The weights that recipes make, on ``device``.

    ``checkpoint`` is the directory of the checkpoint, where that is not the one that was compiled.
    Hashes are compared where those of the artifact were. Raises :class:`ArtifactError` for another
    checkpoint and for one that can't be read, and what torch raises where memory runs out.
    """
    recipes = recipes_of(artifact)
    directory = Path(recipes.checkpoint if checkpoint is None else checkpoint)
    names = [name for weight in recipes.weights.values() for name in tensors_of(weight.recipe)]
    verify = artifact.files.compared_hash(RECIPES) is not None
    with CheckpointFiles(directory, recipes.tensors, names) as files:
        maker = _Maker(files, artifact.rank)

        def make(name: str) -> torch.Tensor:
            recipe, entry = recipes.weights[name], artifact.manifest.weights[name]
            made = torch.empty(entry.shape, dtype=dtype_of(entry.dtype))
            maker.fill(recipe.recipe, made)
            if verify and hashlib.sha256(memory_of(made)).hexdigest() != recipe.sha256[maker.rank]:
                raise _another(name, recipe.recipe, recipes, directory)
            return made

        return {name: tensor.to(device) for name, tensor in _in_threads(make, recipes.weights)}


def _in_threads(
    make: Callable[[str], torch.Tensor], names: Mapping[str, object]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Results in order, a few of them made at a time."""
    threads = min(_THREADS, os.cpu_count() or 1)
    waiting: deque[tuple[str, Future[torch.Tensor]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for name in names:
                if len(waiting) > threads:
                    first, future = waiting.popleft()
                    yield first, future.result()
                waiting.append((name, pool.submit(make, name)))
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _another(name: str, recipe: Node, recipes: Recipes, directory: Path) -> ArtifactError:
    used = list(dict.fromkeys(tensors_of(recipe)))
    files = list(dict.fromkeys(recipes.tensors[tensor].file for tensor in used))
    return ArtifactError(
        f"weight '{name}' is not what was compiled: its sha256 differs",
        place=str(directory),
        expected="the checkpoint that the artifact was compiled from, unchanged",
        found=f"other values of {_some(used)} in {_some(files)}",
        remedy="name the directory of that checkpoint: --checkpoint DIR, or compile this one",
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass(frozen=True)
class _Elements:
    """Elements of several tensors as one row of them."""

    node: Stored

    @cached_property
    def ends(self) -> tuple[int, ...]:
        return tuple(accumulate(each.count for each in self.node.elements))


@dataclass(frozen=True)
class _Maker:
    files: CheckpointFiles
    rank: int

    def fill(self, node: Node, target: torch.Tensor) -> None:
        """Put what a recipe makes into ``target``, which has its shape."""
        for place in places_of(node, whole(node.shape), target, self.rank):
            if place.stored is None:
                place.target.zero_()
            else:
                elements = _Elements(place.stored)
                self._stored(elements, 0, place.stored.shape, place.window, place.target)

    def _stored(
        self,
        elements: _Elements,
        offset: int,
        shape: tuple[int, ...],
        window: Window,
        target: torch.Tensor,
    ) -> None:
        """The window of a value of ``shape`` that begins at an offset of the elements."""
        cuts = [axis for axis, size in enumerate(shape) if window[axis] != (0, size)]
        cut = cuts[-1] if cuts else 0
        if not shape or cut == 0:
            start = window[0][0] if shape else 0
            self._read(elements, offset + start * prod(shape[1:]), target)
            return
        start, length = window[0]
        row = prod(shape[1:])
        size = row * target.element_size()
        short = window[1][1] * prod(shape[2:]) * target.element_size() < _SHORT
        if cut == 1 and short and size <= _BLOCK:
            step = _BLOCK // size
            for number in range(0, length, step):
                part = target[number : number + step]
                rows = target.new_empty((len(part), *shape[1:]))
                self._read(elements, offset + (start + number) * row, rows)
                part.copy_(rows.narrow(1, *window[1]))
            return
        for number in range(length):
            begin = offset + (start + number) * row
            self._stored(elements, begin, shape[1:], window[1:], target[number])

    def _read(self, elements: _Elements, first: int, target: torch.Tensor) -> None:
        """Fill ``target`` with elements one after the other."""
        if not target.is_contiguous():
            row = prod(target.shape[1:])
            step = max(1, _BLOCK // (row * target.element_size()))
            for number in range(0, len(target), step):
                part = target[number : number + step]
                rows = target.new_empty(part.shape)
                self._read(elements, first + number * row, rows)
                part.copy_(rows)
            return
        flat, done = target.view(-1), 0
        number = bisect_right(elements.ends, first)
        while done < len(flat):
            each, end = elements.node.elements[number], elements.ends[number]
            count = min(end - first, len(flat) - done)
            begin = each.first + each.count - (end - first)
            self._part(each.tensor, begin, flat[done : done + count])
            first, done, number = first + count, done + count, number + 1

    def _part(self, name: str, first: int, target: torch.Tensor) -> None:
        """Elements of one tensor, cast in blocks where it has another dtype."""
        dtype = self.files.dtype(name)
        if dtype == target.dtype:
            self.files.read(name, first, target)
            return
        step = _BLOCK // dtype.itemsize
        for begin in range(0, len(target), step):
            part = target[begin : begin + step]
            stored = torch.empty(len(part), dtype=dtype)
            self.files.read(name, first + begin, stored)
            part.copy_(stored)
