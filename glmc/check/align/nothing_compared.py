"""Two sides of which nothing was compared: no answer, and least of all that they agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from glmc.check.align.aligned_step import Wanted
from glmc.check.align.module_tree import layer_number
from glmc.check.align.result import Alignment
from glmc.errors import Lines, UsageError
from glmc_runtime.command.output import counted
from glmc_runtime.record.tensors import Record, RecordedTensor

_SHOWN = 12


def require_values(
    alignment: Alignment, sides: tuple[Record, Record], wanted: Wanted, asked: str
) -> None:
    """Raise :class:`UsageError` where ``alignment`` has no value; ``asked`` are the options that
    say which are ``wanted``, '' for all of them."""
    if alignment.values:
        return
    tensors = [list(side.tensors()) for side in sides]
    modules = [dict.fromkeys(each.key.module for each in some) for some in tensors]
    missing = bool(asked) and not all(
        any(wanted(each, layer_number(each)) for each in some) for some in modules
    )
    named = not asked or "--modules" in asked
    there = (
        _has(letter, facts, some, named=named)
        for letter, facts, some in zip("AB", alignment.facts, modules, strict=True)
    )
    raise UsageError(
        "nothing was compared: no value of one side is one of the other",
        place=f"{alignment.expected}, {alignment.actual}",
        expected=Lines.of(("values that both have; there are", *there)),
        found=Lines.of((*((asked,) if asked else ()), *_found(alignment, tensors))),
        remedy=f"leave out {asked}, or name what both sides have"
        if missing
        else "record two sides of one model, the second with --like the first",
    )


def _has(letter: str, facts: Mapping[str, Any], modules: Mapping[str, None], *, named: bool) -> str:
    """The model of a side, its layers and, where they are to be ``named``, its modules."""
    numbers = {layer_number(each) for each in modules}
    layers = ", ".join(_runs(sorted(number for number in numbers if number is not None)))
    model = facts.get("model") or "a model that is not named"
    text = f"{letter}: {model}, layers {layers or 'none'}"
    if not named:
        return text
    some = list(dict.fromkeys(filter(None, map(_of_any_layer, modules))))
    names = ", ".join(some[:_SHOWN]) + (" ..." if len(some) > _SHOWN else "")
    return f"{text}; modules {names or 'none'}"


def _found(alignment: Alignment, tensors: Sequence[Sequence[RecordedTensor]]) -> Iterator[str]:
    yield " and ".join(
        f"{counted(len(some), 'tensor')} of {letter}"
        for letter, some in zip("AB", tensors, strict=True)
    )
    alike = (name for name in alignment.unpaired[0] if name in alignment.unpaired[1])
    name = next(alike, None)
    if name is not None:
        was, now = (
            next(list(each.shape) for each in some if str(each.key) == name) for some in tensors
        )
        yield f"{name} is {was} in A and {now} in B"


def _of_any_layer(module: str) -> str:
    """``model.layers.*.mlp`` of any layer."""
    number = layer_number(module)
    names = ("*" if name == str(number) else name for name in module.split("."))
    return ".".join(names)


def _runs(numbers: Sequence[int]) -> Iterator[str]:
    """Ascending numbers as ranges, such as ``0-3``."""
    known = set(numbers)
    ends = (number for number in numbers if number + 1 not in known)
    for first in (number for number in numbers if number - 1 not in known):
        last = next(ends)
        yield str(first) if first == last else f"{first}-{last}"
