"""Programs of tiny models at each step of the pipeline, for the tests of dumps."""

from __future__ import annotations

from functools import cache

from glmc.ir.program import Program
from glmc.observe.dump.blocks import Block, blocks
from glmc.observe.dump.values import Values
from glmc.pipeline import runner
from tests.support.models import captured, tiny_config
from tests.support.observing import Steps


@cache
def steps(family: str, layers: int = 4) -> dict[str, Program]:
    """Copies of the program by step; don't change them."""
    seen: dict[str, Program] = {}
    program = captured(tiny_config(family, num_hidden_layers=layers))
    seen["capture"] = program.copy()
    runner.run(program, 8, Steps(lambda name, after: seen.update({name: after.copy()})))
    return seen


def cut(program: Program, *, fold: bool = True) -> tuple[Values, list[Block]]:
    values = Values(program)
    return values, blocks(program, values, fold=fold)
