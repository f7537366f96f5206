"""Batches over a dealt program, all ranks of it in this process."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from glmc.ir.program import Program
from glmc.ir.ranks import run_ranks
from tests.support.models import weights_of
from tests.support.packed import Batch


@dataclass
class RankedBatch(Batch):
    """As :class:`Batch`; each rank has caches of its own, and all must give the same logits."""

    caches_of: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def step(self, program: Program, counts: tuple[int, ...]) -> Tensor:
        ranks = range(program.ranks)
        inputs = self._inputs(counts)
        nodes = list(program.caches())
        for rank in ranks:
            mine = self.caches_of.setdefault(rank, {})
            for node in nodes:
                sizes = (self.tables.numel(), *node.meta["val"].shape[1:])
                mine.setdefault(node.meta["input"], torch.full(sizes, torch.nan))
        weights = [weights_of(program, self.model, rank) for rank in ranks]
        results = run_ranks(
            program, [{**inputs, **self.caches_of[rank]} for rank in ranks], weights
        )
        for rank, (logits, *written) in enumerate(results):
            assert torch.equal(logits, results[0][0])
            names = [node.meta["input"] for node in nodes]
            self.caches_of[rank] = dict(zip(names, written, strict=True))
        self.done = [done + count for done, count in zip(self.done, counts, strict=True)]
        return results[0][0]
