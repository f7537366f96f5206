"""``--test FILE.py``: one op of a plan as a test that fails by itself until it is mended.

The file has the calls for a node as the plan makes them, what they read, and the reference in plain
torch. It needs glmc-runtime and pytest, and runs on the emulator or on a card.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping

import torch

from glmc.check.align.expectation import Expectation, ItsOwnProgram
from glmc.check.align.op_test_text import OpTest
from glmc.check.align.rebuilt import Rebuilt
from glmc.check.align.result import AlignedValue
from glmc.check.align.run import Sequences
from glmc.check.align.taken import TakenCalls, Weight, taken_calls
from glmc.check.bisect.inputs import Input, Recorded, drawn_where_shown
from glmc.errors import UsageError
from glmc.ir.ops import semantic_op
from glmc.ir.ops.collectives import is_collective
from glmc_runtime.engine.options import LoadOptions

LARGEST = 256 << 10
"""Characters of a file."""


def op_test(
    rebuilt: Rebuilt,
    sequences: Sequences,
    row: AlignedValue,
    expectation: Expectation | None = None,
    load: LoadOptions | None = None,
) -> str:
    """The text of the test for a row of an alignment whose verdict is own.

    Numbers are drawn from a seed where they show the fault too, and are those of the run else.
    Raises UsageError with the reason where no test of the op alone shows it.
    """
    test = op_test_of(rebuilt, sequences, row, expectation, load)
    taken = test.taken
    op = semantic_op(taken.node.target)
    if op is not None and is_collective(op.name):
        raise _no_test(row, "its calls are those of several ranks together")
    for place in taken.memory:
        if isinstance(place, Weight) and not _as_packed(rebuilt, place, taken):
            raise _no_test(
                row, f"its calls are right, and its weight '{place.name}' is not the model's"
            )
    text = _smallest(test, row)
    if len(text) > LARGEST:
        raise _no_test(
            row,
            f"what shows it takes {len(text) >> 10} KiB of a file, where {LARGEST >> 10} are "
            "allowed",
            "align fewer or shorter prompts",
        )
    return text


def op_test_of(
    rebuilt: Rebuilt,
    sequences: Sequences,
    row: AlignedValue,
    expectation: Expectation | None = None,
    load: LoadOptions | None = None,
) -> OpTest:
    """The calls for a row, taken out of a run."""
    taken = taken_calls(rebuilt, sequences, expectation or ItsOwnProgram(), row, load)
    found = next(
        each
        for (each, *_) in taken.done.values
        if any(node.meta["id"] == row.node for node in each.shown.nodes)
    )
    return OpTest(rebuilt, taken, found, row)


def _smallest(test: OpTest, row: AlignedValue) -> str:
    values, shared = test.values(), test.shared()
    exact = {name: Recorded(value) for name, value in values.items() if name not in shared}

    def shown(inputs: Mapping[str, Input]) -> bool:
        return bool(_trouble(test.text({**exact, **inputs})))

    inputs = drawn_where_shown({name: values[name] for name in values if name in shared}, shown)
    if not shown(inputs):
        raise _no_test(row, "the op alone shows nothing on the operands of the run")
    return test.text({**exact, **inputs})


def _trouble(text: str) -> str:
    """What the test of a file finds, run here."""
    scope: dict[str, object] = {"__name__": __name__}  # a module that dataclasses find
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        exec(compile(text, "op_test", "exec"), scope)
        trouble: str = scope["trouble"]()  # type: ignore[operator]
    return trouble


def _as_packed(rebuilt: Rebuilt, place: Weight, taken: TakenCalls) -> bool:
    """Whether a weight in memory is what its recipe makes of the model's parameters."""
    known = rebuilt.compiled.weights.get(place.name)
    if known is None:
        return True
    expected = rebuilt.weights.make(known.on(0))
    return torch.equal(expected, taken.memory[place].to(expected.dtype))


def _no_test(row: AlignedValue, reason: str, remedy: str = "") -> UsageError:
    return UsageError(
        f"no test of the op alone shows what is wrong: {reason}", place=row.node, remedy=remedy
    )
