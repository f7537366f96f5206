"""Recipes: how a weight is made of the tensors of a checkpoint, as data.

Slices, concatenations and selections of named tensors. Both files of recipes are made of them:
``weights/recipes.json`` (:mod:`glmc_runtime.format.recipes`), whose tensors the runtime reads, and
``weights/from-engine.json`` (:mod:`glmc_runtime.format.engine_weights`), whose tensors the loader
of an engine hands over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Union

from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.records import misfit

_DEEPEST, _DIMENSIONS, _LARGEST = 16, 8, 1 << 48


@dataclass(frozen=True)
class StoredElements:
    """``count`` elements of a tensor from ``first`` on, in row-major order."""

    tensor: str
    first: int
    count: int


@dataclass(frozen=True)
class Stored:
    """Elements of tensors one after the other, as ``shape`` has them."""

    elements: tuple[StoredElements, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Concatenated:
    """Parts one after the other along dimension 0."""

    parts: tuple[Node, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Stacked:
    """Parts of one shape along a new dimension 0."""

    parts: tuple[Node, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Chosen:
    """Runs of entries of ``axis``, one list of them for each rank: pairs of a start and a length,
    or of None and a length for zeros."""

    recipe: Node
    axis: int
    runs: tuple[tuple[tuple[int | None, int], ...], ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class OnFirst:
    """A value on rank 0, zeros on the others."""

    recipe: Node
    shape: tuple[int, ...]


Node = Union[Stored, Concatenated, Stacked, Chosen, OnFirst]


def node_to_json(node: Node) -> dict[str, Any]:
    """A recipe as JSON data."""
    if isinstance(node, Stored):
        elements = [[each.tensor, each.first, each.count] for each in node.elements]
        return {"elements": elements, "shape": list(node.shape)}
    if isinstance(node, Chosen):
        return {"chosen": node_to_json(node.recipe), "axis": node.axis, "runs": node.runs}
    if isinstance(node, OnFirst):
        return {"on_first": node_to_json(node.recipe)}
    kind = "stacked" if isinstance(node, Stacked) else "concatenated"
    return {kind: [node_to_json(part) for part in node.parts]}


class RecipeProblem(Exception):  # noqa: N818 - whoever reads a file of recipes catches it
    """What is wrong, and where."""


class RecipeReader:
    """Reads recipes and checks each with the shapes of its parts. ``shapes`` are those of the
    tensors that they may name."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], ranks: int) -> None:
        self._sizes = {name: prod(shape) for name, shape in shapes.items()}
        self._ranks = ranks

    def node(self, data: Any, place: str, depth: int = 0) -> Node:
        if depth > _DEEPEST:
            raise RecipeProblem(f"{place} is more than {_DEEPEST} recipes deep")
        if "elements" in data:
            return self._stored(data, place)
        if "chosen" in data:
            return self._chosen(data, place, depth)
        if "on_first" in data:
            inside = self.node(data["on_first"], place, depth + 1)
            return OnFirst(inside, inside.shape)
        kind = "stacked" if "stacked" in data else "concatenated"
        parts = tuple(self.node(part, place, depth + 1) for part in data[kind])
        shapes = [part.shape if kind == "stacked" else part.shape[1:] for part in parts]
        if (
            not parts
            or any(shape != shapes[0] for shape in shapes)
            or not all(kind == "stacked" or part.shape for part in parts)
        ):
            raise RecipeProblem(f"{place} has parts that do not fit")
        if kind == "stacked":
            return Stacked(parts, bounded((len(parts), *shapes[0]), place))
        rows = sum(part.shape[0] for part in parts)
        return Concatenated(parts, bounded((rows, *shapes[0]), place))

    def _stored(self, data: Any, place: str) -> Stored:
        shape = bounded(tuple(data["shape"]), place)
        elements = []
        for item in data["elements"]:
            each = StoredElements(*item)
            problem = misfit(each, StoredElements, place)
            if problem is not None:
                raise RecipeProblem(problem)
            if each.tensor not in self._sizes:
                raise RecipeProblem(f"{place} is of an unlisted tensor, {each.tensor[:80]!r}")
            if not 0 <= each.first <= each.first + each.count <= self._sizes[each.tensor]:
                raise RecipeProblem(f"{place} has elements that '{each.tensor}' has not")
            if each.count < 0:
                raise RecipeProblem(f"{place} has {each.count} elements of '{each.tensor}'")
            elements.append(each)
        if sum(each.count for each in elements) != prod(shape):
            raise RecipeProblem(f"{place} has another number of elements than its shape")
        return Stored(tuple(elements), shape)

    def _chosen(self, data: Any, place: str, depth: int) -> Chosen:
        inside = self.node(data["chosen"], place, depth + 1)
        axis = data["axis"]
        runs = tuple(tuple((start, length) for start, length in each) for each in data["runs"])
        problem = misfit(axis, int, f"{place}.axis") or misfit(
            runs, tuple[tuple[tuple[Union[int, None], int], ...], ...], f"{place}.runs"
        )
        if problem is not None:
            raise RecipeProblem(problem)
        if not 0 <= axis < len(inside.shape):
            raise RecipeProblem(f"{place}.axis is {axis}")
        if len(runs) != self._ranks:
            raise RecipeProblem(
                f"{place}.runs are of {len(runs)} ranks, and ranks.count {self._ranks}"
            )
        entries = inside.shape[axis]
        for start, length in (run for each in runs for run in each):
            if length < 0 or (start is not None and not 0 <= start <= start + length <= entries):
                raise RecipeProblem(f"{place}.runs has {start}, {length} of {entries} entries")
        sizes = {sum(length for _, length in each) for each in runs}
        if len(sizes) != 1:
            raise RecipeProblem(f"{place}.runs differ in length between ranks")
        shape = (*inside.shape[:axis], sizes.pop(), *inside.shape[axis + 1 :])
        return Chosen(inside, axis, runs, bounded(shape, place))


def tensors_of(node: Node) -> Iterator[str]:
    """The tensors that a recipe names."""
    if isinstance(node, Stored):
        yield from (each.tensor for each in node.elements)
        return
    inside = (node.recipe,) if isinstance(node, (Chosen, OnFirst)) else node.parts
    for part in inside:
        yield from tensors_of(part)


def bounded(shape: tuple[Any, ...], place: str) -> tuple[int, ...]:
    """The shape, where a tensor may have it; raises :class:`RecipeProblem`."""
    problem = misfit(shape, tuple[int, ...], f"{place}.shape")
    if problem is not None:
        raise RecipeProblem(problem)
    if len(shape) > _DIMENSIONS or any(not 0 <= size < _LARGEST for size in shape):
        raise RecipeProblem(f"{place}.shape is {str(list(shape))[:80]}")
    if prod(shape) > _LARGEST:
        raise RecipeProblem(f"{place}.shape is of {prod(shape)} elements")
    return shape


def require_weights_of(made: Mapping[str, Node], manifest: Manifest, file: str) -> None:
    """Raise :class:`RecipeProblem` unless the recipes of ``file`` are those of the weights that
    the manifest says are made by it, each of its shape."""
    wanted = {name: each for name, each in manifest.weights.items() if file in each.files}
    if wanted.keys() != made.keys():
        names = sorted(wanted.keys() ^ made.keys())
        raise RecipeProblem(f"its weights are not those of the manifest: {', '.join(names[:5])}")
    for name, entry in wanted.items():
        if set(entry.files) != {file} or entry.shape != made[name].shape:
            shapes = f"{list(made[name].shape)} and {list(entry.shape)}"
            raise RecipeProblem(f"weights.{name} is not what the manifest says: {shapes}")
