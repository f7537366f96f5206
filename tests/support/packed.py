"""Ragged sequences packed one after the other, over a paged cache with scattered blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.program import Program
from glmc.passes.kv_cache import KvCache
from glmc.pipeline.stages import PASSES
from tests.support.models import captured, weights_of

BLOCK = 8


_FUSED: dict[tuple[type, str], Program] = {}


def fused(config: Any) -> Program:
    """The stateless program of a config after all passes before kv_cache; a copy of one that the
    passes made once in this process."""
    key = (type(config), config.to_json_string(use_diff=False))
    if key not in _FUSED:
        program = captured(config)
        for each in PASSES:
            each.run(program)
        _FUSED[key] = program
    return _FUSED[key].copy()


def paged(config: Any) -> Program:
    program = fused(config)
    KvCache(BLOCK).run(program)
    return program


def give_caches(program: Program) -> Program:
    """Let the graph also return its written caches; it is functional and would lose them."""
    output = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    written: list[Node] = []
    for node in program.graph.nodes:
        if m.is_op(node, "glmc.qkv_rope_cache", "glmc.rope_decode_attention"):
            written += [user for index in (1, 2) for user in node.users if user.args[1] == index]
    output.args = ((output.args[0][0], *written),)
    program.graph_module.recompile()
    return program


@dataclass
class Batch:
    """Sequences of ``lengths`` random tokens; ``done`` of each are in the cache. Caches start as
    NaN, so whatever reads a slot that was not written shows."""

    model: nn.Module
    lengths: tuple[int, ...]
    longest: int = 40
    token_ids: list[Tensor] = field(init=False)
    done: list[int] = field(init=False)
    tables: Tensor = field(init=False)
    caches: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        self.done = [0] * len(self.lengths)
        self.token_ids = [
            torch.randint(4, 160, (length,), generator=generator) for length in self.lengths
        ]
        width = -(-self.longest // BLOCK)
        blocks = torch.randperm(len(self.lengths) * width, generator=generator)
        self.tables = blocks.view(len(self.lengths), width).int()

    def step(self, program: Program, counts: tuple[int, ...]) -> Tensor:
        """Feed the next ``counts`` tokens of each sequence; the logits. Keeps the caches."""
        inputs = self._inputs(counts)
        names = [node.meta["input"] for node in program.inputs()]
        caches = [node.meta["input"] for node in program.caches()]
        for node in program.inputs():
            name = node.meta["input"]
            if name in caches and name not in self.caches:
                sizes = (self.tables.numel(), *node.meta["val"].shape[1:])
                self.caches[name] = torch.full(sizes, torch.nan)
        given = {name: inputs[name] for name in names if name not in caches} | self.caches
        logits, *written = program.run(given, weights_of(program, self.model))
        self.caches = dict(zip(caches, written, strict=True))
        self.done = [done + count for done, count in zip(self.done, counts, strict=True)]
        return logits

    def _inputs(self, counts: tuple[int, ...]) -> dict[str, Tensor]:
        positions, token_ids, slots = [], [], []
        for index, count in enumerate(counts):
            at = torch.arange(self.done[index], self.done[index] + count)
            positions.append(at)
            token_ids.append(self.token_ids[index][at])
            slots.append(self.tables[index][at // BLOCK].long() * BLOCK + at % BLOCK)
        lengths = torch.tensor(self.done) + torch.tensor(counts)
        ends = torch.tensor(counts).cumsum(0)
        zero = torch.zeros(1, dtype=torch.int32)
        return {
            "token_ids": torch.cat(token_ids),
            "positions": torch.cat(positions),
            "slot_mapping": torch.cat(slots),
            "block_tables": self.tables,
            "cu_seqlens_q": torch.cat((zero, ends.int())),
            "cu_seqlens_k": torch.cat((zero, lengths.cumsum(0).int())),
            "context_lengths": lengths.int(),
            "last_rows": ends - 1,
        }

    def alone(self, program: Program) -> list[Tensor]:
        """Logits [length, vocabulary] of each sequence by the stateless program."""
        weights = weights_of(program, self.model)
        logits = []
        for token_ids in self.token_ids:
            positions = torch.arange(len(token_ids)).unsqueeze(0)
            inputs = {"token_ids": token_ids.unsqueeze(0), "positions": positions}
            logits.append(program.run(inputs, weights)[0][0])
        return logits
