"""``weights/from-engine.json``: how weights are made of the tensors that an engine's loader hands
over, as data.

The loader reads the checkpoint and hands over one named tensor after the other, in any order. The
file says which names it may use, what part of which parameter each of them is, which ones are left
out on purpose, and by which recipe each weight is made of the parameters. It is made of
``config.json`` alone, so it knows neither files nor values, and has no hashes of them. It is
checked whole before a tensor is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.recipe_nodes import (
    Chosen,
    Node,
    OnFirst,
    RecipeProblem,
    RecipeReader,
    Stored,
    bounded,
    node_to_json,
    require_weights_of,
)
from glmc_runtime.format.records import misfit

FROM_ENGINE = "weights/from-engine.json"
SCHEMA_VERSION = 1

Window = tuple[tuple[int, int], ...]
"""The first entry and the number of entries of a part, in each dimension of the whole."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of the model. One that is ``exact`` may be cast only where that keeps its
    values."""

    shape: tuple[int, ...]
    exact: bool


@dataclass(frozen=True)
class Part:
    """The elements of ``parameter`` from ``first`` on, as a tensor of ``shape``."""

    parameter: str
    first: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Skipped:
    """Tensors that are left out: those whose names have one of the ``endings``, and those of
    numbered modules from a number on, by what stands before the number."""

    endings: tuple[str, ...]
    modules: dict[str, int]

    def has(self, name: str) -> bool:
        if name.endswith(self.endings):
            return True
        for prefix, first in self.modules.items():
            number = name[len(prefix) :].partition(".")[0] if name.startswith(prefix) else ""
            if number.isdecimal() and int(number) >= first:
                return True
        return False


@dataclass(frozen=True)
class EngineWeights:
    """``names`` are what a loader may call a part of a parameter, the parameter's own name aside.
    ``prefix`` may be left out of any name. ``weights`` are the recipes, by weight."""

    parameters: dict[str, Parameter]
    names: dict[str, Part]
    prefix: str
    skipped: Skipped
    weights: dict[str, Node]

    def part(self, name: str) -> Part | None:
        """What a loader means by a name; None for one that is not known."""
        for each in (name, f"{self.prefix}{name}"):
            if each in self.names:
                return self.names[each]
            if each in self.parameters:
                return Part(each, 0, self.parameters[each].shape)
        return None

    def skips(self, name: str) -> bool:
        return self.skipped.has(name) or self.skipped.has(f"{self.prefix}{name}")


def comes_from_an_engine(manifest: Manifest) -> bool:
    """Whether the weights of an artifact are made of tensors that are handed over."""
    return FROM_ENGINE in manifest.files


def window_of(whole: tuple[int, ...], first: int, shape: tuple[int, ...]) -> Window | None:
    """The window of a tensor of shape ``whole`` that its elements from ``first`` on are, as a
    tensor of ``shape``: one entry of each leading dimension that ``shape`` lacks, then some of the
    next, then all. None where they are no window."""
    leading = len(whole) - len(shape)
    if leading < 0 or not 0 <= first < first + prod(shape) <= prod(whole):
        return None
    if not whole:
        return ()
    window, left = [], first
    for axis, size in enumerate((*(1,) * leading, *shape)):
        inner = prod(whole[axis + 1 :])
        start, left = divmod(left, inner)
        window.append((start, size))
    cut = next((axis for axis, (_, size) in enumerate(window) if size != 1), len(whole) - 1)
    rest = [(0, size) for size in whole[cut + 1 :]]
    fits = sum(window[cut]) <= whole[cut] and window[cut + 1 :] == rest
    return tuple(window) if fits else None


def engine_weights_to_json(weights: EngineWeights) -> dict[str, Any]:
    """:func:`engine_weights_from_json` reads it back to an equal value."""
    return {
        "schema_version": SCHEMA_VERSION,
        "prefix": weights.prefix,
        "parameters": {name: vars(each) for name, each in weights.parameters.items()},
        "names": {
            name: [part.parameter, part.first, part.shape] for name, part in weights.names.items()
        },
        "skipped": vars(weights.skipped),
        "weights": {name: node_to_json(node) for name, node in weights.weights.items()},
    }


def engine_weights_from_json(data: Any, manifest: Manifest) -> EngineWeights:
    """Read what an artifact says of tensors that are handed over; raises :class:`ArtifactError`
    for data of another form, names of no part of a parameter, and a weight that is not the
    manifest's."""
    try:
        if data["schema_version"] != SCHEMA_VERSION:
            raise RecipeProblem(f"schema_version is {data['schema_version']!r}")
        parameters = {
            name: Parameter(bounded(tuple(item["shape"]), f"parameters.{name}"), item["exact"])
            for name, item in data["parameters"].items()
        }
        names = {
            name: Part(parameter, first, bounded(tuple(shape), f"names.{name}"))
            for name, (parameter, first, shape) in data["names"].items()
        }
        skipped = data["skipped"]
        reader = RecipeReader(
            {name: each.shape for name, each in parameters.items()}, manifest.ranks.count
        )
        weights = EngineWeights(
            parameters,
            names,
            data["prefix"],
            Skipped(tuple(skipped["endings"]), skipped["modules"]),
            {name: reader.node(item, f"weights.{name}") for name, item in data["weights"].items()},
        )
        _check(weights)
        require_weights_of(weights.weights, manifest, FROM_ENGINE)
    except RecipeProblem as error:
        raise _not_well_formed(str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _not_well_formed(repr(error)) from error
    return weights


def _check(weights: EngineWeights) -> None:
    problem = (
        misfit(weights.parameters, dict[str, Parameter], "parameters")
        or misfit(weights.names, dict[str, Part], "names")
        or misfit(weights.skipped, Skipped, "skipped")
        or misfit(weights.prefix, str, "prefix")
    )
    if problem is not None:
        raise RecipeProblem(problem)
    ends: dict[str, int] = {}
    for name, part in sorted(
        weights.names.items(), key=lambda item: (item[1].parameter, item[1].first)
    ):
        whole = weights.parameters.get(part.parameter)
        if whole is None or window_of(whole.shape, part.first, part.shape) is None:
            raise RecipeProblem(f"names.{name} is no part of '{part.parameter[:80]}'")
        if part.shape == whole.shape:
            continue
        if part.first < ends.get(part.parameter, 0):
            raise RecipeProblem(f"names.{name} overlaps another part of '{part.parameter}'")
        ends[part.parameter] = part.first + prod(part.shape)
    for name, node in weights.weights.items():
        _check_stored(name, node, weights.parameters)


def _check_stored(name: str, node: Node, parameters: dict[str, Parameter]) -> None:
    """Each stored value is a window of one parameter."""
    if isinstance(node, Stored):
        each = node.elements[0] if len(node.elements) == 1 else None
        if each is None or window_of(parameters[each.tensor].shape, each.first, node.shape) is None:
            raise RecipeProblem(f"weights.{name} has values that are no part of one parameter")
        return
    for part in (node.recipe,) if isinstance(node, (Chosen, OnFirst)) else node.parts:
        _check_stored(name, part, parameters)


def _not_well_formed(problem: str) -> ArtifactError:
    return ArtifactError(
        f"{FROM_ENGINE} is not well formed: {problem}",
        remedy="compile the model again",
    )
