"""What an artifact says of the tensors that the loader of an engine will hand over."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from glmc.artifact.recipes import node_of
from glmc.ir.recipe import Weight
from glmc.weights.engine import PREFIX, HandedOver
from glmc_runtime.format.engine_weights import EngineWeights
from glmc_runtime.format.recipe_nodes import StoredElements


def engine_weights(weights: Sequence[Weight], source: HandedOver, ranks: int) -> EngineWeights:
    """The recipes of stored weights over parameters, and the names by which these are handed
    over."""

    def elements(parameter: str) -> list[StoredElements]:
        part = source.part(parameter)
        return [StoredElements(part.parameter, part.first, prod(part.shape))]

    return EngineWeights(
        source.parameters,
        source.names,
        PREFIX,
        source.skipped,
        {weight.name: node_of(weight, elements, ranks) for weight in weights},
    )
