"""The values of a plan that are recorded: as which tensors, and what is known of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from glmc_runtime.format.extent import Extent, Shape
from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.format.tensor_key import TensorKey
from glmc_runtime.format.values import PlanValue, Values, read_values
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.record.layers import layer_of
from glmc_runtime.record.options import MODULE, RecordOptions


@dataclass(frozen=True)
class NamedTensor:
    """What is recorded of a value under these keys: all of it, or columns from the first of
    ``columns`` up to the second, not counted."""

    keys: tuple[TensorKey, ...]
    facts: dict[str, Any]
    columns: tuple[int, int] | None = None


@dataclass(frozen=True)
class RecordedValue:
    """A value of a plan, and what is recorded of it."""

    value: PlanValue
    shape: Shape
    tensors: tuple[NamedTensor, ...]

    @property
    def name(self) -> str:
        """What no other value of the phase is called."""
        return str(self.tensors[0].keys[0])

    @property
    def rows(self) -> Extent:
        """How many rows it has in a step; of a cache those that the step writes."""
        if self.value.cache is not None:
            return Extent.of(tokens=1)
        return self.shape[0] if self.shape else Extent(constant=1)


def values_of(artifact: Artifact) -> Values:
    """What the calls of an artifact complete; raises :class:`ArtifactError`."""
    ranks = artifact.manifest.ranks.count
    return read_values(artifact.files, artifact.plans.values(), ranks)


def recorded_values(
    plan: PhasePlan, values: Sequence[PlanValue], options: RecordOptions
) -> tuple[RecordedValue, ...]:
    """Those of a phase that are asked for, in the order of the calls."""
    functions = functions_of(plan)
    found = []
    for value in values:
        tensors = tuple(_tensors(value, plan.name, functions[value.call], options))
        if tensors:
            shape = tuple(map(Extent.parse, value.shape))
            found.append(RecordedValue(value, shape, tensors))
    return tuple(found)


def _tensors(
    value: PlanValue, phase: str, function: str, options: RecordOptions
) -> Iterator[NamedTensor]:
    facts = {
        "node": value.node,
        "phase": phase,
        "call": value.call,
        "function": function,
        "op": value.op,
        "layer": value.layer,
        "source": value.source,
        "passes": list(value.passes),
    }
    keys = _wanted(value.keys, options)
    if keys and not (options.level == MODULE and _is_op(value)):
        yield NamedTensor(keys, facts)
    for part in value.parts:
        keys = _wanted(part.keys, options)
        if keys:
            columns = part.start, part.stop
            yield NamedTensor(keys, {**facts, "columns": [*columns]}, columns)


def _wanted(keys: Sequence[TensorKey], options: RecordOptions) -> tuple[TensorKey, ...]:
    return tuple(key for key in keys if options.wants(key.module, layer_of(key.module)))


def _is_op(value: PlanValue) -> bool:
    """Whether the value is no module's tensor: its key has the op's name for the class's."""
    return value.keys[0].class_name == value.op.rpartition(".")[2]


def functions_of(plan: PhasePlan) -> list[str]:
    """For each call the kernels that work for its node, up to itself."""
    working: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    names = []
    for call in plan.calls:
        functions = working[call.node, call.origin]
        functions[call.function] = None
        names.append(" + ".join(functions))
    return names
