"""Whether the arguments of one call fit the schema of its kernel: kinds, dtypes, shapes, ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from glmc_runtime.format.extent import Extent, Shape
from glmc_runtime.format.phases import Order
from glmc_runtime.kernels.expressions import ANY, Expression, UnknownSizeError, Value
from glmc_runtime.kernels.schema import ArgumentSchema, KernelSchema
from glmc_runtime.loading.call_arguments import Facts, TensorFacts, ValueFacts, shown

Given = Mapping[str, Facts]
_LARGEST = 1 << 62


class Misfit(Exception):  # noqa: N818 - caught by the check, which knows the place
    """An argument, or several together, that the schema refuses."""

    def __init__(self, problem: str, expected: str = "", found: str = "") -> None:
        super().__init__(problem)
        self.problem, self.expected, self.found = problem, expected, found


@dataclass
class Fit:
    """What a call's arguments fix. ``tensors`` are those that are given, with their schemas;
    ``below`` the bounds of what integer tensors hold or must hold, by argument."""

    order: Order
    sizes: dict[str, Value] = field(default_factory=dict)
    leading: dict[str, Shape] = field(default_factory=dict)
    below: dict[str, Extent] = field(default_factory=dict)
    tensors: tuple[tuple[ArgumentSchema, str, TensorFacts], ...] = ()

    @property
    def written(self) -> set[str]:
        """Names of the tensors that the kernel writes."""
        return {name for argument, name, _ in self.tensors if argument.writes}


def fit(schema: KernelSchema, arguments: Given, steps: Mapping[str, Value], order: Order) -> Fit:
    """Hold a call's arguments against the schema; raises :class:`Misfit`. ``steps`` are the sizes
    of the step that relations may name, ``order`` what is known of its symbols."""
    result = Fit(order, dict(steps))
    pairs = _paired(schema, arguments)
    for argument, name, facts in pairs:
        if isinstance(facts, TensorFacts):
            _check_tensor(argument, name, facts, arguments)
        else:
            _check_value(argument, name, facts, result)
    tensors = result.tensors = tuple(
        (argument, name, facts) for argument, name, facts in pairs if isinstance(facts, TensorFacts)
    )
    for argument, name, facts in tensors:
        _bind_sizes(argument, name, facts, result)
    for argument, name, facts in tensors:
        _check_sizes(argument, name, facts, result)
    _check_together(schema, arguments, pairs, result)
    for argument, name, _ in tensors:
        if argument.below is not None:
            result.below[name] = _size(argument.below, result)
    return result


def _paired(schema: KernelSchema, arguments: Given) -> list[tuple[ArgumentSchema, str, Facts]]:
    """Each argument that is there with its schema; None for an optional one is as if left out."""
    pairs = []
    counts: dict[str, int] = {}
    for name, facts in arguments.items():
        argument = schema.argument(name)
        if argument is None:
            raise Misfit(
                f"the kernel has no argument '{name}'", ", ".join(schema.by_name), name[:60]
            )
        if argument.numbered:
            counts[argument.name] = counts.get(argument.name, 0) + 1
        if isinstance(facts, ValueFacts) and facts.value is None and not argument.required:
            continue
        pairs.append((argument, name, facts))
    for argument in schema.arguments:
        if argument.numbered:
            names = [f"{argument.name}_{number}" for number in range(counts.get(argument.name, 0))]
            missing = not names or any(name not in arguments for name in names)
        else:
            missing = argument.required and argument.name not in arguments
        if missing:
            raise Misfit(f"the call lacks '{argument.name}'", argument.expected, "nothing")
    order = {argument.name: place for place, argument in enumerate(schema.arguments)}
    return sorted(pairs, key=lambda pair: order[pair[0].name])


def _check_tensor(
    argument: ArgumentSchema, name: str, facts: TensorFacts, arguments: Given
) -> None:
    if argument.kind != "tensor":
        raise Misfit(f"'{name}' is a tensor", argument.expected, f"a {facts.kind}")
    allowed = argument.dtypes
    if argument.like is not None:
        other = arguments.get(argument.like)
        if isinstance(other, TensorFacts):
            allowed = (other.dtype,)
    if facts.dtype not in allowed:
        raise Misfit(f"'{name}' has the wrong dtype", " or ".join(allowed), facts.dtype)
    if facts.on_host != argument.on_host:
        there, here = ("host memory", "the device")[:: 1 if argument.on_host else -1]
        raise Misfit(f"'{name}' is in the wrong memory", there, here)


def _check_value(argument: ArgumentSchema, name: str, facts: ValueFacts, result: Fit) -> None:
    value, kind = facts.value, argument.kind
    if isinstance(value, Extent):
        if kind != "integer" or argument.equals is None:
            raise _wrong(argument, name, "a size that follows the step")
        result.sizes[name] = value
    elif kind == "integer":
        if type(value) is not int or not argument.minimum <= value <= argument.maximum:
            raise _wrong(argument, name, value)
        result.sizes[name] = Extent(constant=value)
    elif kind == "number" or argument.or_number:
        if type(value) not in (int, float) or not _in_range(argument, value):
            raise _wrong(argument, name, value)
    elif kind == "integers":
        whole = isinstance(value, tuple) and all(type(item) is int for item in value)
        if not whole:
            raise _wrong(argument, name, value)
    elif type(value) is not {"flag": bool, "text": str, "none": type(None)}.get(kind):
        raise _wrong(argument, name, value)
    elif kind == "flag":
        result.sizes[name] = bool(value)
    if argument.choices and value not in argument.choices:
        raise _wrong(argument, name, value)


def _in_range(argument: ArgumentSchema, value: object) -> bool:
    if not isinstance(value, (int, float)):
        return False
    if isinstance(value, float) and math.isinf(value):
        return argument.infinite
    return argument.minimum <= value <= argument.maximum  # false for NaN


def _wrong(argument: ArgumentSchema, name: str, value: object) -> Misfit:
    shown = repr(value)
    return Misfit(
        f"'{name}' is not what the kernel takes",
        argument.expected,
        shown if len(shown) < 60 else shown[:57] + "...",
    )


def _bind_sizes(argument: ArgumentSchema, name: str, facts: TensorFacts, result: Fit) -> None:
    """Give each name in the shape that has no size yet the one that is there."""
    pattern = argument.shape
    if pattern is None:
        return
    own = len(pattern.sizes)
    spare = len(facts.shape) - own
    if spare < 0 or (spare and pattern.leading is None):
        raise _misshapen(argument, name, facts)
    if pattern.leading is not None:
        result.leading.setdefault(pattern.leading, facts.shape[:spare])
    for key, extent in zip(pattern.names, facts.shape[spare:], strict=True):
        if key is not None and key != ANY:
            result.sizes.setdefault(key, extent)
    result.sizes[f"{argument.name}.size"] = facts.size
    if facts.shape:
        key = f"{argument.name}.columns"
        before = result.sizes.get(key, Extent())
        result.sizes[key] = facts.shape[-1] + before if isinstance(before, Extent) else before


def _check_sizes(argument: ArgumentSchema, name: str, facts: TensorFacts, result: Fit) -> None:
    pattern = argument.shape
    if pattern is None:
        return
    spare = len(facts.shape) - len(pattern.sizes)
    if pattern.leading is not None and facts.shape[:spare] != result.leading[pattern.leading]:
        raise _misshapen(argument, name, facts, result)
    sizes = zip(pattern.sizes, facts.shape[spare:], strict=True)
    for expression, extent in sizes:
        if expression.text != ANY and _size(expression, result) != extent:
            raise _misshapen(argument, name, facts, result)


def _misshapen(
    argument: ArgumentSchema, name: str, facts: TensorFacts, found: Fit | None = None
) -> Misfit:
    expected = f"[{argument.shape}]"
    if found is not None:
        known = {key: size for key, size in found.sizes.items() if key in str(argument.shape)}
        words = [f"{key} = {size}" for key, size in known.items()]
        expected += f" with {', '.join(words)}" if words else ""
    return Misfit(f"'{name}' has the wrong shape", expected, shown(facts.shape))


def _check_together(
    schema: KernelSchema,
    arguments: Given,
    pairs: list[tuple[ArgumentSchema, str, Facts]],
    result: Fit,
) -> None:
    there = {name for _, name, _ in pairs}
    for argument in schema.arguments:
        result.sizes[f"{argument.name}.given"] = argument.name in there
    for argument, name, facts in pairs:
        if argument.kind == "integers" and isinstance(facts, ValueFacts):
            _check_list(argument, name, facts, arguments)
        if argument.equals is not None and result.sizes[name] != _size(argument.equals, result):
            raise Misfit(
                f"'{name}' is not what the kernel takes",
                f"{argument.equals} = {_size(argument.equals, result)}",
                str(result.sizes[name]),
            )
    for names in schema.together:
        if any(name in there for name in names) and not all(name in there for name in names):
            raise Misfit("arguments are given that go together only", ", ".join(names))
    for relation in schema.relations:
        try:
            holds = relation.evaluate(result.sizes, result.order)
        except UnknownSizeError as error:
            raise Misfit(f"the sizes do not fit together: {error}", str(relation)) from error
        if not holds:
            used = {key: size for key, size in result.sizes.items() if key in str(relation)}
            words = ", ".join(f"{key} = {size}" for key, size in used.items())
            raise Misfit("the sizes do not fit together", str(relation), words)
    if schema.broadcast:
        _check_broadcast(schema.broadcast, arguments)


def _check_list(argument: ArgumentSchema, name: str, facts: ValueFacts, arguments: Given) -> None:
    """A list of the last sizes of numbered tensors."""
    values = facts.value if isinstance(facts.value, tuple) else ()
    parts = [arguments.get(f"{argument.source}_{number}") for number in range(len(values))]
    sizes = [part.shape[-1] for part in parts if isinstance(part, TensorFacts)]
    counted = sum(key.startswith(f"{argument.source}_") for key in arguments)
    if counted != len(values) or sizes != [Extent(constant=value) for value in values]:
        raise Misfit(
            f"'{name}' is not the widths of '{argument.source}_0', ...",
            ", ".join(map(str, sizes)),
            ", ".join(map(str, values))[:60],
        )


def _check_broadcast(names: tuple[str, ...], arguments: Given) -> None:
    *parts, target = (arguments[name] for name in names)
    if not isinstance(target, TensorFacts):
        return
    one, wide = Extent(constant=1), target.shape
    shapes = [part.shape for part in parts if isinstance(part, TensorFacts)]
    fits = all(len(shape) <= len(wide) for shape in shapes)
    for place in range(1, len(wide) + 1):
        ends = [shape[-place] for shape in shapes if len(shape) >= place]
        fits = fits and all(end in (one, wide[-place]) for end in ends)
        fits = fits and (wide[-place] == one or wide[-place] in ends)
    if not fits:
        raise Misfit(
            f"'{names[-1]}' has not the shape of the others together",
            " and ".join(map(shown, shapes)),
            shown(wide),
        )


def _size(expression: Expression, result: Fit) -> Extent:
    try:
        value = expression.evaluate(result.sizes, result.order)
    except UnknownSizeError as error:
        raise Misfit(f"the shapes do not fit together: {error}", str(expression)) from error
    if isinstance(value, Extent) and not value.linear:
        raise Misfit("a size would be quadratic in the step", str(expression), str(value))
    if isinstance(value, bool) or abs(value.constant) > _LARGEST:
        raise Misfit("a size is out of range", str(expression), str(value)[:60])
    return value
