"""A floor of a step in each dtype: what an op multiplies and moves, by the rates of a device.

Predicted, never measured: each op takes as long as its products or its bytes do, whichever is
longer; launches, the KV cache and what does not overlap are left out, as they are alike in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Interpreter, Node

from glmc.ir.ops.registry import semantic_op
from glmc.ir.program import Program
from glmc.job import Job


@dataclass(frozen=True)
class Rates:
    """Numbers of a ``device`` by their ``source``: operations a second of products in each dtype,
    and bytes a second of its memory."""

    device: str
    flops: Mapping[str, float]
    bytes: float
    source: str


def no_rates(job: Job) -> Rates | None:
    """Of a compile that is not told what a dtype costs."""
    return None


@dataclass(frozen=True)
class Work:
    """Operations of an op's products and the bytes that it reads and writes."""

    flops: int
    bytes: int

    def seconds(self, flops: float, bytes_: float) -> float:
        return max(self.flops / flops, self.bytes / bytes_)


def work_of(program: Program, batch: int, tokens: int) -> tuple[Work, ...]:
    """The work of each op of a stateless program on [batch, tokens]; nothing is computed."""
    counted = _Counted(program.graph_module)
    with FakeTensorMode(), torch.no_grad():
        arguments = []
        for node in program.placeholders():
            weight = program.weight_of(node)
            if weight is not None:
                arguments.append(torch.empty(weight.shape, dtype=weight.dtype))
            else:
                arguments.append(torch.zeros(batch, tokens, dtype=torch.int64))
        counted.run(*arguments)
    return tuple(counted.work)


class _Counted(Interpreter):
    """Adds up the facts of each semantic op as it is run."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.work: list[Work] = []

    def run_node(self, n: Node) -> object:
        op = semantic_op(n.target)
        if op is not None:
            arguments, _ = self.fetch_args_kwargs_from_env(n)
            self.work.append(Work(op.flops(*arguments), op.bytes_accessed(*arguments)))
        result: object = super().run_node(n)
        return result


def predictions(
    program: Program,
    rates: Rates,
    dtypes: tuple[str, str],
    *,
    prefill: int,
    decode: int,
    ranks: int = 1,
) -> Iterator[str]:
    """A line for a prefill of so many tokens and for a decode step of so many sequences, each in
    both of the ``dtypes``; of ``ranks`` cards each has an even share, and messages cost nothing."""
    steps = {
        f"a prefill of {prefill} tokens": work_of(program, 1, prefill),
        f"a decode step of {decode} sequences, KV cache aside,": work_of(program, decode, 1),
    }
    for name, work in steps.items():
        seconds = {
            dtype: sum(each.seconds(rates.flops[dtype], rates.bytes) for each in work) / ranks
            for dtype in dtypes
        }
        times = [f"{1e3 * value:.3g} ms in {dtype}" for dtype, value in seconds.items()]
        cards = rates.device if ranks == 1 else f"{ranks} x {rates.device}"
        yield f"predicted for {cards} ({rates.source}): {name} takes at least " + (
            " and ".join(times)
        )
