"""Which tensors of two records are one value: by what is certain first, and never by a guess.

1. node: both sides know the node of the program that computes it.
2. key: both have it under one name.
3. module and shape: modules that are one by their place in the tree (module_tree.py), there by
   kind, number and call, else by a size that only one tensor of it has on each side; the parts of
   a merged projection are columns of it, and a residual stream in two tensors is their sum
   (residual_stream.py).
4. order and shape: in layers of which nothing is known otherwise, all tensors of one kind and size
   in their order, where both sides have equally many.

Tensors are one only if their shapes read as one matrix (layout.py). What is left is left over.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

from glmc.check.align.layout import Layout, common_layout
from glmc.check.align.module_tree import MERGED, aligned_modules, layer_number, place_of
from glmc.check.align.residual_stream import is_norm, with_sums
from glmc_runtime.format.tensor_key import OUTPUT
from glmc_runtime.record.tensors import RecordedTensor

NODE, KEY, MODULE, ORDER = "node", "key", "module and shape", "order and shape"
Columns = tuple[int, int]
Same = Callable[[RecordedTensor, int], Hashable]


@dataclass(frozen=True)
class Pair:
    """Two tensors that are one value, with the columns of either that are it."""

    expected: RecordedTensor
    actual: RecordedTensor
    paired_by: str
    layout: Layout

    @property
    def name(self) -> str:
        return named(self.expected, self.layout.expected.columns)

    @property
    def other_name(self) -> str:
        return named(self.actual, self.layout.actual.columns)


@dataclass(frozen=True)
class Pairing:
    """``pairs`` in the order of what is expected; what only one side has."""

    pairs: tuple[Pair, ...]
    unpaired: tuple[tuple[RecordedTensor, ...], tuple[RecordedTensor, ...]]


def has_shape(tensor: RecordedTensor) -> bool:
    """Whether a record says a tensor's shape: a summary as a table may have statistics alone."""
    return tensor.load is not None or bool(tensor.shape)


def named(tensor: RecordedTensor, columns: Columns | None) -> str:
    """The key, with the columns that are meant."""
    return str(tensor.key) if columns is None else f"{tensor.key}[{columns[0]}:{columns[1]}]"


def paired(
    expected: Iterable[RecordedTensor],
    actual: Iterable[RecordedTensor],
    lengths: Sequence[int] | None = None,
) -> Pairing:
    """Pair the tensors of one step; ``lengths`` are the tokens of its sequences, where known."""
    search = _Search(list(expected), list(actual), lengths)
    search.by_names()
    search.by_modules()
    search.by_columns()
    search.by_order()
    return search.result()


class _Search:
    def __init__(
        self,
        expected: list[RecordedTensor],
        actual: list[RecordedTensor],
        lengths: Sequence[int] | None,
    ) -> None:
        self.lengths = lengths
        modules = ((each.key.module for each in side) for side in (expected, actual))
        self.modules = aligned_modules(*modules)
        back = {other: module for module, other in self.modules.items()}
        self.sides = (
            with_sums(expected, actual, self.modules),
            with_sums(actual, expected, back),
        )
        # By place in its list: two tensors may be equal in all that they say.
        self.pairs: dict[int, list[Pair]] = defaultdict(list)
        self.left = dict(enumerate(self.sides[0])), dict(enumerate(self.sides[1]))
        self.calls = [_calls(side) for side in self.sides]

    def result(self) -> Pairing:
        pairs = [pair for place in sorted(self.pairs) for pair in self.pairs[place]]
        left = (tuple(side.values()) for side in self.left)
        return Pairing(tuple(pairs), tuple(left))  # type: ignore[arg-type]

    def by_names(self) -> None:
        """Nodes and keys, both at once where a node has several keys."""
        self._unique(NODE, lambda each: (_node(each), str(each.key)) if _node(each) else None)
        self._unique(NODE, _node)
        self._unique(KEY, lambda each: str(each.key))

    def by_modules(self) -> None:
        """Tensors of modules that are one: by number, where both sides have as many of the size, or
        else by size alone."""
        alike: list[Counter[Hashable]] = [Counter(), Counter()]
        for side, tensors in enumerate(self.sides):
            alike[side].update(self._in_module(side, _sized, each) for each in tensors)

        def numbered(side: int, tensor: RecordedTensor) -> Hashable:
            size = self._in_module(side, _sized, tensor)
            first = tensor.key.kind == OUTPUT and tensor.key.name == "0"
            if alike[0][size] == alike[1][size] or (first and is_norm(tensor.key.module)):
                return self._in_module(side, _numbered, tensor)
            return None

        self._unique(MODULE, partial(numbered, 0), partial(numbered, 1))
        sized = partial(self._in_module, 0, _sized), partial(self._in_module, 1, _sized)
        self._unique(MODULE, *sized)

    def _in_module(self, side: int, same: Same, tensor: RecordedTensor) -> Hashable:
        """What a tensor has in common with that of the other side: None where there is none."""
        module: str | None = tensor.key.module
        if side == 0:
            module = self.modules.get(tensor.key.module)
        return None if module is None else (module, same(tensor, self.calls[side][_call(tensor)]))

    def by_columns(self) -> None:
        """The parts of a merged projection, whichever side has merged it."""
        for whole_side in (0, 1):
            parts = defaultdict(list)
            for place, each in self.left[1 - whole_side].items():
                if each.key.kind == OUTPUT:
                    parts[place_of(each.key.module)].append(place)
            for place, whole in list(self.left[whole_side].items()):
                layer, names = place_of(whole.key.module)
                if whole.key.kind != OUTPUT or names[-1:] == () or names[-1] not in MERGED:
                    continue
                found = [parts[layer, (*names[:-1], part)] for part in MERGED[names[-1]]]
                if all(len(each) == 1 for each in found):
                    self._columns(whole_side, place, [each[0] for each in found])

    def _columns(self, whole_side: int, place: int, parts: list[int]) -> None:
        whole, others = self.left[whole_side][place], self.left[1 - whole_side]
        sizes = [prod(others[part].shape) for part in parts]
        rows = prod(whole.shape[:-1])
        if not rows or sum(sizes) != prod(whole.shape) or any(size % rows for size in sizes):
            return
        start, made = 0, []
        for part, size in zip(parts, sizes, strict=True):
            columns = (start, start + size // rows)
            start = columns[1]
            sides = (place, part) if whole_side == 0 else (part, place)
            both = (columns, None) if whole_side == 0 else (None, columns)
            made.append((sides, self._layout(*sides, both)))
        if all(layout is not None for _, layout in made):
            for (expected, actual), layout in made:
                self._add(expected, actual, MODULE, layout)

    def by_order(self) -> None:
        """Whole layers of which nothing is paired."""
        known = {layer_number(each.key.module) for each in self._taken()}
        groups: list[dict[Hashable, list[int]]] = [defaultdict(list), defaultdict(list)]
        for group, left in zip(groups, self.left, strict=True):
            for place, each in left.items():
                layer = layer_number(each.key.module)
                if layer not in known:
                    group[layer, _sized(each, 0)].append(place)
        for same, places in groups[0].items():
            others = groups[1].get(same, [])
            if len(places) == len(others):
                for place, other in zip(places, others, strict=True):
                    self._try(place, other, ORDER)

    def _taken(self) -> list[RecordedTensor]:
        taken = [each for place, each in enumerate(self.sides[0]) if place not in self.left[0]]
        return taken + [each for at, each in enumerate(self.sides[1]) if at not in self.left[1]]

    def _unique(
        self,
        paired_by: str,
        of: Callable[[RecordedTensor], Hashable],
        of_actual: Callable[[RecordedTensor], Hashable] | None = None,
    ) -> None:
        """Pair what alone on its side has a name; None is none."""
        groups: list[dict[Hashable, list[int]]] = [defaultdict(list), defaultdict(list)]
        for group, left, name_of in zip(groups, self.left, (of, of_actual or of), strict=True):
            for place, each in left.items():
                group[name_of(each)].append(place)
        for name, places in groups[0].items():
            others = groups[1].get(name, [])
            if name is not None and len(places) == len(others) == 1:
                self._try(places[0], others[0], paired_by)

    def _layout(
        self,
        expected: int,
        actual: int,
        columns: tuple[Columns | None, Columns | None] = (None, None),
    ) -> Layout | None:
        sides = self.left[0][expected], self.left[1][actual]
        if not all(map(has_shape, sides)):
            return None if any(columns) else Layout(1, 0)
        return common_layout(sides[0].shape, sides[1].shape, self.lengths, columns)

    def _try(self, expected: int, actual: int, paired_by: str) -> None:
        sides = self.left[0][expected], self.left[1][actual]
        if not all(each.dtype for each in sides) or _floating(sides[0]) == _floating(sides[1]):
            self._add(expected, actual, paired_by, self._layout(expected, actual))

    def _add(self, expected: int, actual: int, paired_by: str, layout: Layout | None) -> None:
        if layout is None:
            return
        sides = self.sides[0][expected], self.sides[1][actual]
        self.pairs[expected].append(Pair(*sides, paired_by, layout))
        for left, place in zip(self.left, (expected, actual), strict=True):
            left.pop(place, None)


def _node(tensor: RecordedTensor) -> Hashable:
    """The node, with the columns of it that the tensor is; None where it is not known."""
    node = tensor.facts.get("node")
    return (node, str(tensor.facts.get("columns"))) if node else None


def _call(tensor: RecordedTensor) -> tuple[str, str, int]:
    return tensor.key.module, tensor.key.class_name, tensor.key.call


def _calls(tensors: Iterable[RecordedTensor]) -> dict[tuple[str, str, int], int]:
    """Which call of its module a tensor is of: keys count those of a class."""
    numbers: dict[tuple[str, str, int], int] = {}
    modules: dict[str, int] = defaultdict(int)
    for each in tensors:
        if _call(each) not in numbers:
            numbers[_call(each)] = modules[each.key.module]
            modules[each.key.module] += 1
    return numbers


def _numbered(tensor: RecordedTensor, call: int) -> Hashable:
    return tensor.key.kind, tensor.key.name, call


def _sized(tensor: RecordedTensor, call: int) -> Hashable:
    return tensor.key.kind, call, prod(tensor.shape), _floating(tensor)


def _floating(tensor: RecordedTensor) -> bool:
    return "float" in tensor.dtype


def of_steps(tensors: Iterable[RecordedTensor]) -> dict[int, list[RecordedTensor]]:
    """The tensors of each step, in its order."""
    steps: dict[int, list[RecordedTensor]] = defaultdict(list)
    for each in tensors:
        steps[each.step].append(each)
    return {step: sorted(steps[step], key=lambda each: each.order) for step in sorted(steps)}
