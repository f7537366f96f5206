"""What the tests of all merges share: both phases of a tiny model, run before and after."""

from __future__ import annotations

import functools
from typing import Any

import torch

from glmc.ir import match as m
from glmc.ir.program import Program
from glmc.passes import specialise
from glmc.passes.base import Pass, PassResult
from tests.support.models import tiny_config, tiny_model
from tests.support.packed import Batch, give_caches, paged

LENGTHS = (9, 4, 12)


@functools.cache
def _paged(family: str) -> Program:
    return paged(tiny_config(family))


def phase(family: str, name: str) -> Program:
    """A fresh ``prefill`` or ``decode`` program of a tiny model of the family."""
    make: Any = {"prefill": specialise.prefill, "decode": specialise.decode}[name]
    return make(_paged(family))  # type: ignore[no-any-return]


def count(program: Program, op: str) -> int:
    return sum(m.is_op(node, f"glmc.{op}") for node in program.graph.nodes)


def conditions(result: PassResult) -> list[str]:
    return [miss.condition for miss in result.near_misses]


def fires(one: Pass, family: str, name: str, expected: int) -> None:
    """``expected`` matches in a phase, bitwise the same logits and caches over a prompt and the
    steps after it, and nothing left for a second run."""
    outputs = []
    for merging in (False, True):
        phases = {each: give_caches(phase(family, each)) for each in ("prefill", "decode")}
        if merging:
            program = phases[name]
            assert len(one.run(program).matches) == expected
            assert count(program, one.name) == expected
            text = str(program.graph)
            assert not one.run(program).matches
            assert str(program.graph) == text
            program.graph_module.recompile()
        batch = Batch(tiny_model(tiny_config(family)), LENGTHS)
        steps = [("prefill", (5, 1, 7)), ("decode", (1, 1, 1)), ("decode", (1, 1, 1))]
        logits = [batch.step(phases[kind], counts) for kind, counts in steps]
        outputs.append((logits, batch.caches))
    for before, after in zip(outputs[0][0], outputs[1][0], strict=True):
        assert torch.equal(before, after)
    for key, cache in outputs[0][1].items():
        assert torch.equal(cache.nan_to_num(7.0), outputs[1][1][key].nan_to_num(7.0)), key
