"""The text of a test of one op: see op_test.py."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch.fx import Node

from glmc.check.align import yardstick
from glmc.check.align.call_values import CallValues
from glmc.check.align.inlined import inlined
from glmc.check.align.op_test_places import OpTestPlaces
from glmc.check.align.rebuilt import Rebuilt
from glmc.check.align.result import AlignedValue
from glmc.check.align.routing import GATE
from glmc.check.align.taken import StepInput, TakenCalls, place_of_argument
from glmc.check.bisect.inputs import READERS, Input, Recorded
from glmc.ir import match as m
from glmc.ir.ops import semantic_op
from glmc.ir.ops.attention import as_eager, in_blocks, in_one
from glmc.ir.tolerance import Tolerance
from glmc.observe.dump.script import target_text
from glmc.observe.dump.values import argument, constant
from glmc_runtime.format.plan import CacheArgument, Call, WeightArgument

_INTERPRETED = """
import os

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
"""
MARKER = "Written by glmc align: "
RUN = "python -m pytest -c /dev/null --rootdir ."
"""Runs a test whatever options of pytest the folder around it has."""
MARKED_WITHIN = 1000
"""Characters within which a test has its marker."""
_HEAD = """
from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass, replace
from enum import Enum
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor
{interpreted}
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.owner import owned_by
from glmc_runtime.kernels.vendor import find_vendor

VENDOR = {vendor}
DEVICE = "{device}" if {on_device} else "cpu"
"""
_HELPERS = '''

def call(function, **arguments):
    """One call, as a plan is replayed."""
    if VENDOR is not None and function.startswith("kunlun_ops."):
        VENDOR.bind(function, arguments)()
        return
    with owned_by("a test"):
        thunk = find_binder(function)(arguments)
    thunk()


def view(tensor, *shape):
    """The first elements of a tensor in another shape."""
    return tensor.flatten()[: math.prod(shape)].view(shape)


def rows_of_cache(cache, slots):
    """What is in slots of a cache [blocks, heads, tokens, head_dim]."""
    size = cache.shape[2]
    return cache[slots // size, :, slots % size]


def raised(value):
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def unchanged(value):
    return value
'''
_TEST = '''

def trouble():
    """What is wrong with the calls; nothing is ''."""
    memory = {{
        name: value.clone().to("cpu" if name in ON_HOST else DEVICE)
        for name, value in MEMORY.items()
    }}
    exact = compared(expected(memory, raised))
    references = [compared(expected(memory, unchanged, **way)) for way in WAYS]
    calls(memory)
    found = compared(left(memory))
    for place, (name, actual) in enumerate(zip(VALUES, found)):
        others = [each[place] for each in references]
        wrong = judge(exact[place], others, actual, TOLERANCE{times}).found
        if wrong:
            return f"{{name}}: {{wrong}}"
    return ""


def test_{name}():
    wrong = trouble()
    assert not wrong, wrong
'''


class OpTest:
    """``values`` are what the file has to bring, by name; ``text`` is the file with some inputs in
    their place. ``by_record``: what must come out is a reference's, and no op's of ours. ``taken``
    are the calls that it has."""

    def __init__(
        self, rebuilt: Rebuilt, taken: TakenCalls, found: CallValues, row: AlignedValue
    ) -> None:
        self.by_record = row.reason.startswith(yardstick.OTHER_VALUE)
        self.taken, self._found, self._row = taken, found, row
        manifest = rebuilt.artifact.manifest
        self._target, self._profile = manifest.target, manifest.abi_profile
        self._places = OpTestPlaces(rebuilt, taken)
        self._texts = {node: self._places.operand(node) for node in taken.node.all_input_nodes}

    def values(self) -> dict[str, Any]:
        """Tensors by name: what calls read before it is written, and what the reference alone
        reads."""
        return self._places.values()

    def shared(self) -> set[str]:
        """Those of which other numbers may be brought."""
        return set() if self.by_record else self._places.shared()

    def text(self, inputs: Mapping[str, Input]) -> str:
        """The whole file."""
        parts = [
            self._docstring(),
            self._head(),
            READERS,
            _HELPERS,
            "\n\n# How far off the calls may be: glmc/check/align/yardstick.py\n",
            inlined(yardstick.judge, Tolerance),
            f"\n\nTOLERANCE = {self._tolerance()}\n",
            "\n\n# The reference.\n",
            self._reference(),
            "\n\n# What is read before the calls.\n",
            *(f"{name.upper()} = {each.text()}\n" for name, each in inputs.items()),
            self._memory(inputs),
            self._expected(),
            self._calls(),
            self._left(),
            _TEST.format(
                name=re.sub(r"\W+", "_", self._row.op),
                times=", times=20.0" if self.by_record else "",
            ),
        ]
        return "".join(parts)

    def _docstring(self) -> str:
        row = self._row
        functions = ", ".join(dict.fromkeys(call.function for call, _ in self.taken.calls))
        lines = (
            f"{row.op} of {row.node} in {row.phase}, as a plan for {self._target} calls it.",
            "",
            f"{MARKER}pytest fails on this file until what {functions} leave is right.",
            f"Found: {row.reason}.",
            "",
            "The calls stand here as they were compiled, with their arguments: the file is green",
            "once a kernel is mended. After a mend of the compile, of a pass or config.json, it is",
            "still red: write it anew by glmc align A ARTIFACT --test FILE.",
            f"Run: {RUN} FILE",
        )
        body = "\n".join(lines).replace("\\", "/").replace('"""', "'''")
        return f'"""{body}\n"""\n'

    def _head(self) -> str:
        vendor = "None" if self._profile is None else f'find_vendor("{self._profile}", None)'
        on_device = {"xpu": "not VENDOR.emulated", "cuda": "torch.cuda.is_available()"}
        return _HEAD.format(
            interpreted=_INTERPRETED if self._target == "cuda" else "",
            vendor=vendor,
            device="cuda",
            on_device=on_device.get(self._target, "False"),
        )

    def _tolerance(self) -> str:
        tolerance = self._found.tolerance
        parts = [f"Numerics.{tolerance.numerics.name}"]
        parts += [
            f"{name}={value!r}" for name, value in vars(tolerance).items() if name != "numerics"
        ]
        return f"Tolerance({', '.join(parts)})"

    def _reference(self) -> str:
        op = semantic_op(self.taken.node.target)
        ways = "WAYS = ({},)\n"
        if op is None:
            return f"reference = {target_text(self.taken.node)}\n{ways}"
        text = inlined(op.reference)
        if "attend" in text.partition(f"def {op.reference.__name__}(")[2]:
            ways = "WAYS = ({}, {'attend': in_blocks})\n"
            rounded = [in_one, in_blocks]
            if len(self._found.references) > 2:  # the calls keep scores as they were computed in
                rounded.append(as_eager)
                ways = "WAYS = ({}, {'attend': in_blocks}, {'attend': as_eager})\n"
            text = inlined(op.reference, *rounded)
        return f"{text}\n\nreference = {op.reference.__name__}\n{ways}"

    def _memory(self, inputs: Mapping[str, Input]) -> str:
        """All places of the calls, those that are written first as zeros."""
        memory = self.taken.memory
        widened = {self._places.name(each): memory[each].dtype for each in self._places.widened}
        casts = {name: f".to({dtype})" for name, dtype in widened.items()}
        lines = [f'    "{name}": {name.upper()}{casts.get(name, "")},' for name in inputs]
        for place, value in memory.items():
            if place not in self._places.brought:
                sizes = ", ".join(map(str, value.shape))
                lines.append(
                    f'    "{self._places.name(place)}": torch.zeros({sizes}, dtype={value.dtype}),'
                )
        host = [
            self._places.name(place)
            for place in memory
            if isinstance(place, StepInput) and place.name.endswith("_host")
        ]
        body = "\n".join(lines)
        return f"MEMORY = {{\n{body}\n}}\nON_HOST = {host!r}\n"

    def _expected(self) -> str:
        node = self.taken.node
        nodes = list(node.all_input_nodes)
        names = {each: f"operands[{place}]" for place, each in enumerate(nodes)}
        texts = "\n".join(f"        {self._texts[each]}," for each in nodes)
        if self.by_record:
            values = [self._found.expected[each] for each in self._found.shown.nodes]
            made = ", ".join(Recorded(each.contiguous()).text() for each in values)
            body = f"    return ({made},)\n"
        else:
            given = [argument(each, names.__getitem__, constant) for each in node.args]
            given += [
                f"{name}={argument(each, names.__getitem__, constant)}"
                for name, each in node.kwargs.items()
            ]
            several = isinstance(node.meta["val"], tuple)
            picked = ", ".join(
                f"made[{each.args[1]}]" if several else "made" for each in self._found.shown.nodes
            )
            body = f"    made = reference({', '.join((*given, '**way'))})\n    return ({picked},)\n"
        return (
            "\n\ndef expected(memory, dtype, **way):\n"
            '    """What the reference makes of the operands."""\n'
            f"    operands = [\n{texts}\n    ]\n"
            "    operands = [dtype(each.cpu()) for each in operands]\n"
            f"{body}"
        )

    def _calls(self) -> str:
        lines = []
        for call, bound in self.taken.calls:
            parts = [f'"{call.function}"']
            parts += [
                f"{name}={self._argument(call, name, bound[name])}" for name in call.arguments
            ]
            lines.append(
                "    call(\n" + "".join(f"        {each},\n" for each in parts) + "    )\n"
            )
        return "\n\ndef calls(memory):\n" + "".join(lines)

    def _argument(self, call: Call, name: str, bound: Any) -> str:
        item = call.arguments[name]
        place = place_of_argument(item)
        if place is None:
            return constant(bound)
        text = f'memory["{self._places.name(place)}"]'
        if isinstance(item, WeightArgument):
            return text if item.rows is None else f"{text}[{item.rows[0]}:{item.rows[1]}]"
        if isinstance(item, CacheArgument):
            return text
        return f"view({', '.join((text, *map(str, bound.shape)))})"

    def _left(self) -> str:
        """What the calls have left, and both sides as they are compared."""
        nodes = self._found.shown.nodes
        values = ", ".join(self._places.storage(node, self._found.expected[node]) for node in nodes)
        names = [node.meta["id"] for node in nodes]
        compared = []
        slots = f"torch.tensor({self._found.shown.slots.tolist()})"
        for place, node in enumerate(nodes):
            if node in self._found.shown.caches:
                compared.append(f"rows_of_cache(values[{place}], {slots})")
            elif m.is_op(self.taken.node, GATE):
                compared.append(self._routed(node))
            else:
                compared.append(f"values[{place}]")
        return (
            "\n\ndef left(memory):\n"
            '    """What the calls leave."""\n'
            f"    return ({values},)\n"
            "\n\ndef compared(values):\n"
            '    """As they are compared."""\n'
            "    values = [each.cpu() for each in values]\n"
            f"    return ({', '.join(compared)},)\n"
            f"\n\nVALUES = {names!r}\n"
        )

    def _routed(self, node: Node) -> str:
        """A router may name experts in any order."""
        nodes = self._found.shown.nodes
        places = {each.args[1]: place for place, each in enumerate(nodes)}
        weights, ids = f"values[{places[0]}]", f"values[{places[1]}].long()"
        if node.args[1] == 1:
            return f"{ids}.sort(-1)[0]"
        experts = int(m.shape(self.taken.node.args[1])[0])
        return f"{weights}.new_zeros(len({ids}), {experts}).scatter_(1, {ids}, {weights})"
