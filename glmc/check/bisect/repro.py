"""``repro.py``: the graph, its inputs and the tolerance in one file that fails by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch.fx import Node

from glmc.check.bisect import inputs as drawing
from glmc.check.bisect.evidence import Counterexample, Half
from glmc.check.bisect.finding import commented
from glmc.check.bisect.inputs import Input, Recorded
from glmc.errors import InternalError
from glmc.ir.program import Program
from glmc.observe.dump.blocks import node_id
from glmc.observe.dump.parts import Part, names_of
from glmc.observe.dump.script import function_text
from glmc.observe.dump.values import Values

_PRELUDE = """
import base64
import math
import operator
import sys
import zlib

import torch

import glmc.ir.ops  # the glmc:: ops
"""
_MAIN = """
def root_mean_square(value, axis):
    finite = value.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return finite.square().mean(axis, keepdim=value.dim() > 0).sqrt()


def main():
    with torch.no_grad():
        wanted, found = expected(), actual()
    if not isinstance(wanted, torch.Tensor) or not isinstance(found, torch.Tensor):
        return None if wanted == found else f"{{found}} and not {{wanted}}"
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return (
            f"{{list(found.shape)}} {{found.dtype}} and not {{list(wanted.shape)}} {{wanted.dtype}}"
        )
    was, now = wanted.double(), found.double()
    same = (was == now) | (was.isnan() & now.isnan())
    error = (was - now).abs().masked_fill(same, 0.0).nan_to_num(nan=math.inf, posinf=math.inf)
    rows = root_mean_square(was, -1) if was.dim() else was.abs()
    bound = RELATIVE_BOUND * torch.maximum(rows, root_mean_square(was.flatten(), -1))
    if bool((error > bound.expand_as(error)).any()):
        return f"off by {{float(error.max()):.3g}}, allowed {{float(bound.max()):.3g}}"
    return None


if __name__ == "__main__":
    trouble = main()
    print(f"{place}: {{trouble or 'as it must be'}}")
    sys.exit(1 if trouble else 0)
"""


def repro(
    title: Iterable[str],
    place: str,
    evidence: Counterexample,
    inputs: Mapping[Node, Input],
    before: Program,
    after: Program,
) -> str:
    """The text of the file. ``title`` says what was found; ``place`` names it in one line.

    Raises InternalError when the inputs do not show the fault.
    """
    if not drawing.shows(evidence, inputs):
        raise InternalError("the chosen inputs do not show the fault", place=place)
    *_, tolerance = evidence.outcome(drawing.values_of(inputs))
    relative = tolerance.relative(_dtype(evidence))
    names = names_of(tuple(inputs), None)
    text = commented(title)
    text += "# python repro.py exits with 1 as long as the two differ beyond the bound.\n"
    text += _PRELUDE + drawing.READERS + "\n"
    text += f"# {evidence.tolerance.numerics.value}; see glmc/ir/tolerance.py for the bound\n"
    text += f"RELATIVE_BOUND = {relative!r}\n\n# The inputs: {evidence.case}.\n"
    for node, item in inputs.items():
        text += f"{names[node].upper()} = {item.text()}  # {node_id(node)}\n"
    text += "\n\n" + _function("actual_graph", evidence.after, Values(after))
    if evidence.before is not None:
        text += "\n\n" + _function("expected_graph", evidence.before, Values(before))
        wanted = f"expected_graph({_arguments(evidence.before, names, evidence.same)})"
    else:
        text += f"\n\nEXPECTED = {Recorded(evidence.expected).text()}\n"
        wanted = "EXPECTED"
    text += f"\n\ndef expected():\n    return {wanted}\n"
    text += f"\n\ndef actual():\n    return actual_graph({_arguments(evidence.after, names, {})})\n"
    return text + "\n" + _MAIN.format(place=place.replace('"', "'"))


def _arguments(half: Half, names: Mapping[Node, str], same: Mapping[Node, Node]) -> str:
    partner = {old: new for new, old in same.items()}
    return ", ".join(names[partner.get(start, start)].upper() for start in half.starts)


def _function(name: str, half: Half, values: Values) -> str:
    names = names_of((*half.starts, *half.calls), None)
    part = Part(name, None, half.starts, half.calls, (half.end,), names)
    return function_text(part, values, single=True)


def _dtype(evidence: Counterexample) -> torch.dtype:
    value = evidence.after.end.meta["val"]
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return torch.float32
    return value.dtype
