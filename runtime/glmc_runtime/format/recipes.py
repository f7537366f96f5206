"""``weights/recipes.json``: how weights are made of the tensors of a checkpoint, as data.

Slices, concatenations and casts of named tensors, for each weight and each rank, with the sha256 of
the bytes that come of them. An artifact whose weights are made so has none of its own but those
that no checkpoint holds. The file is checked whole before any tensor is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Union

from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.dtypes import DTYPES
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.records import misfit

RECIPES = "weights/recipes.json"
SCHEMA_VERSION = 1
_FILE = re.compile(r"[A-Za-z0-9][\w.+-]*\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DEEPEST, _DIMENSIONS, _LARGEST = 16, 8, 1 << 48


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the checkpoint: ``file`` is a name in its directory."""

    file: str
    dtype: str
    shape: tuple[int, ...]


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


@dataclass(frozen=True)
class StoredWeight:
    """A weight: its recipe, and the sha256 of its bytes on each rank."""

    recipe: Node
    sha256: tuple[str, ...]


@dataclass(frozen=True)
class Recipes:
    """``checkpoint`` is the directory that the model was compiled from."""

    checkpoint: str
    tensors: dict[str, StoredTensor]
    weights: dict[str, StoredWeight]


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


def recipes_to_json(recipes: Recipes) -> dict[str, Any]:
    """:func:`recipes_from_json` reads it back to an equal value."""
    return {
        "schema_version": SCHEMA_VERSION,
        "checkpoint": recipes.checkpoint,
        "tensors": {name: vars(tensor) for name, tensor in recipes.tensors.items()},
        "weights": {
            name: {"recipe": node_to_json(weight.recipe), "sha256": weight.sha256}
            for name, weight in recipes.weights.items()
        },
    }


def recipes_from_json(data: Any, manifest: Manifest) -> Recipes:
    """Read the recipes of an artifact; raises :class:`ArtifactError` for data of another form,
    elements that a tensor does not have, and a weight that is not the manifest's."""
    try:
        if data["schema_version"] != SCHEMA_VERSION:
            raise _Problem(f"schema_version is {data['schema_version']!r}")
        tensors = {
            name: StoredTensor(item["file"], item["dtype"], tuple(item["shape"]))
            for name, item in data["tensors"].items()
        }
        _check_tensors(tensors)
        reader = _Reader(tensors, manifest.ranks.count)
        weights = {
            name: StoredWeight(
                reader.node(item["recipe"], f"weights.{name}"), tuple(item["sha256"])
            )
            for name, item in data["weights"].items()
        }
        recipes = Recipes(data["checkpoint"], tensors, weights)
        problem = misfit(recipes.checkpoint, str, "checkpoint")
        if problem is not None:
            raise _Problem(problem)
        _check_weights(weights, manifest)
    except _Problem as error:
        raise _not_well_formed(str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _not_well_formed(repr(error)) from error
    return recipes


class _Problem(Exception):  # noqa: N818 - caught by the reader
    """What is wrong, and where."""


class _Reader:
    """Reads recipes and checks each with the shapes of its parts."""

    def __init__(self, tensors: dict[str, StoredTensor], ranks: int) -> None:
        self._sizes = {name: prod(tensor.shape) for name, tensor in tensors.items()}
        self._ranks = ranks

    def node(self, data: Any, place: str, depth: int = 0) -> Node:
        if depth > _DEEPEST:
            raise _Problem(f"{place} is more than {_DEEPEST} recipes deep")
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
            raise _Problem(f"{place} has parts that do not fit")
        if kind == "stacked":
            return Stacked(parts, _bounded((len(parts), *shapes[0]), place))
        rows = sum(part.shape[0] for part in parts)
        return Concatenated(parts, _bounded((rows, *shapes[0]), place))

    def _stored(self, data: Any, place: str) -> Stored:
        shape = _bounded(tuple(data["shape"]), place)
        elements = []
        for item in data["elements"]:
            each = StoredElements(*item)
            problem = misfit(each, StoredElements, place)
            if problem is not None:
                raise _Problem(problem)
            if each.tensor not in self._sizes:
                raise _Problem(f"{place} is of an unlisted tensor, {each.tensor[:80]!r}")
            if not 0 <= each.first <= each.first + each.count <= self._sizes[each.tensor]:
                raise _Problem(f"{place} has elements that '{each.tensor}' has not")
            if each.count < 0:
                raise _Problem(f"{place} has {each.count} elements of '{each.tensor}'")
            elements.append(each)
        if sum(each.count for each in elements) != prod(shape):
            raise _Problem(f"{place} has another number of elements than its shape")
        return Stored(tuple(elements), shape)

    def _chosen(self, data: Any, place: str, depth: int) -> Chosen:
        inside = self.node(data["chosen"], place, depth + 1)
        axis = data["axis"]
        runs = tuple(tuple((start, length) for start, length in each) for each in data["runs"])
        problem = misfit(axis, int, f"{place}.axis") or misfit(
            runs, tuple[tuple[tuple[Union[int, None], int], ...], ...], f"{place}.runs"
        )
        if problem is not None:
            raise _Problem(problem)
        if not 0 <= axis < len(inside.shape):
            raise _Problem(f"{place}.axis is {axis}")
        if len(runs) != self._ranks:
            raise _Problem(f"{place}.runs are of {len(runs)} ranks, and ranks.count {self._ranks}")
        entries = inside.shape[axis]
        for start, length in (run for each in runs for run in each):
            if length < 0 or (start is not None and not 0 <= start <= start + length <= entries):
                raise _Problem(f"{place}.runs has {start}, {length} of {entries} entries")
        sizes = {sum(length for _, length in each) for each in runs}
        if len(sizes) != 1:
            raise _Problem(f"{place}.runs differ in length between ranks")
        shape = (*inside.shape[:axis], sizes.pop(), *inside.shape[axis + 1 :])
        return Chosen(inside, axis, runs, _bounded(shape, place))


def tensors_of(node: Node) -> Iterator[str]:
    """The tensors that a recipe names."""
    if isinstance(node, Stored):
        yield from (each.tensor for each in node.elements)
        return
    inside = (node.recipe,) if isinstance(node, (Chosen, OnFirst)) else node.parts
    for part in inside:
        yield from tensors_of(part)


def _check_tensors(tensors: dict[str, StoredTensor]) -> None:
    for name, tensor in tensors.items():
        problem = misfit(tensor, StoredTensor, f"tensors.{name}")
        if problem is not None:
            raise _Problem(problem)
        if not _FILE.fullmatch(tensor.file):
            raise _Problem(f"tensors.{name}.file is {tensor.file[:80]!r}, and no file's name")
        if tensor.dtype not in DTYPES:
            raise _Problem(f"tensors.{name}.dtype is {tensor.dtype[:80]!r}")
        _bounded(tensor.shape, f"tensors.{name}")


def _check_weights(weights: dict[str, StoredWeight], manifest: Manifest) -> None:
    for name, weight in weights.items():
        problem = misfit(weight.sha256, tuple[str, ...], f"weights.{name}.sha256")
        hashes = [each for each in weight.sha256 if _SHA256.fullmatch(str(each))]
        if (
            problem is not None
            or len(hashes) != manifest.ranks.count
            or len(weight.sha256) != len(hashes)
        ):
            raise _Problem(f"weights.{name} has no sha256 for each rank")
    made = {name: each for name, each in manifest.weights.items() if RECIPES in each.files}
    if made.keys() != weights.keys():
        names = sorted(made.keys() ^ weights.keys())
        raise _Problem(f"its weights are not those of the manifest: {', '.join(names[:5])}")
    for name, entry in made.items():
        if set(entry.files) != {RECIPES} or entry.shape != weights[name].recipe.shape:
            shapes = f"{list(weights[name].recipe.shape)} and {list(entry.shape)}"
            raise _Problem(f"weights.{name} is not what the manifest says: {shapes}")


def _bounded(shape: tuple[Any, ...], place: str) -> tuple[int, ...]:
    problem = misfit(shape, tuple[int, ...], f"{place}.shape")
    if problem is not None:
        raise _Problem(problem)
    if len(shape) > _DIMENSIONS or any(not 0 <= size < _LARGEST for size in shape):
        raise _Problem(f"{place}.shape is {str(list(shape))[:80]}")
    if prod(shape) > _LARGEST:
        raise _Problem(f"{place}.shape is of {prod(shape)} elements")
    return shape


def _not_well_formed(problem: str) -> ArtifactError:
    return ArtifactError(
        f"{RECIPES} is not well formed: {problem}",
        remedy="compile the model again",
    )
