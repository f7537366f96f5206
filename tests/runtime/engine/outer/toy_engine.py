"""A toy outer engine: its own blocks, shared prefixes, chunks beside decodes, and preemption.

As in vLLM, full blocks of computed tokens are found again by all tokens up to their end, decodes go
before prompts within a budget of tokens for each step, and where blocks run out the request that
came last gives its own back and is computed again later. Greedy tokens are its sampling.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from glmc_runtime.engine.outer.model import AttachedModel
from glmc_runtime.engine.outer.step import OuterStep

_ROOM = 3
"""Rows that its buffers have beyond what a step needs."""


@dataclass(eq=False)
class Request:
    """``computed`` tokens have their keys and values in ``blocks``."""

    tokens: list[int]
    wanted: int
    computed: int = 0
    blocks: list[int] = field(default_factory=list)


class Blocks:
    """Counts the owners of blocks; a block without any keeps its content until it is taken."""

    def __init__(self, free: Sequence[int], size: int) -> None:
        self.size = size
        self.free = deque(free)
        self.owners: Counter[int] = Counter()
        self._by_prefix: dict[tuple[int, ...], int] = {}
        self._prefixes: dict[int, tuple[int, ...]] = {}

    def shared(self, tokens: list[int]) -> list[int]:
        """Take the blocks that have the first full blocks of ``tokens``, but for the last token."""
        blocks: list[int] = []
        for end in range(self.size, len(tokens), self.size):
            block = self._by_prefix.get(tuple(tokens[:end]))
            if block is None:
                break
            if not self.owners[block]:
                self.free.remove(block)
            self.owners[block] += 1
            blocks.append(block)
        return blocks

    def take(self) -> int | None:
        if not self.free:
            return None
        block = self.free.popleft()
        self._by_prefix.pop(self._prefixes.pop(block, ()), None)
        self.owners[block] = 1
        return block

    def keep(self, request: Request) -> None:
        """Let others find the full blocks of a request."""
        for number in range(request.computed // self.size):
            block, prefix = (
                request.blocks[number],
                tuple(request.tokens[: (number + 1) * self.size]),
            )
            if prefix not in self._by_prefix and block not in self._prefixes:
                self._by_prefix[prefix] = block
                self._prefixes[block] = prefix

    def give_back(self, request: Request) -> None:
        for block in request.blocks:
            self.owners[block] -= 1
            if not self.owners[block]:
                self.free.append(block)
        request.blocks, request.computed = [], 0


class ToyEngine:
    """Drives ``model`` over ``blocks`` (ids) of ``size`` tokens, at most ``budget`` tokens a step.

    With ``by_rows`` logits are those of chosen rows of hidden states; else a step asks for the
    logits of every sequence, those of unfinished prompts too. ``counts`` says what has happened.
    """

    def __init__(
        self,
        model: AttachedModel,
        blocks: Sequence[int],
        size: int,
        budget: int,
        by_rows: bool,
        device: torch.device,
    ) -> None:
        self.model, self.budget, self.by_rows, self.device = model, budget, by_rows, device
        self.blocks = Blocks(blocks, size)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.counts: Counter[str] = Counter()
        self.width = -(-model.max_context // size)

    def run(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
        """Greedy ``tokens`` after each prompt."""
        requests = [Request(list(prompt), len(prompt) + tokens) for prompt in prompts]
        self.waiting.extend(requests)
        while self.waiting or self.running:
            self._step()
        return [
            request.tokens[len(prompt) :] for request, prompt in zip(requests, prompts, strict=True)
        ]

    def _step(self) -> None:
        scheduled = self._schedule()
        logits, rows = self._compute(scheduled)
        chosen = logits.argmax(-1).tolist()
        for request, count in scheduled.items():
            request.computed += count
            self.blocks.keep(request)
            if request.computed == len(request.tokens):
                request.tokens.append(chosen[rows[request]])
            if len(request.tokens) == request.wanted:
                self.running.remove(request)
                self.blocks.give_back(request)

    def _schedule(self) -> dict[Request, int]:
        """New tokens by request."""
        left, scheduled = self.budget, dict[Request, int]()
        for request in tuple(self.running):
            count = min(left, len(request.tokens) - request.computed)
            if request in self.running and count and self._grow(request, count, scheduled):
                scheduled[request] = count
                left -= count
        while self.waiting and left and len(self.running) < self.model.max_sequences:
            request = self.waiting[0]
            if not request.blocks:
                request.blocks = self.blocks.shared(request.tokens)
                request.computed = len(request.blocks) * self.blocks.size
                self.counts["shared blocks"] += len(request.blocks)
            count = min(left, len(request.tokens) - request.computed)
            if not self._room(request, count):
                self.blocks.give_back(request)
                break
            self.running.append(self.waiting.popleft())
            scheduled[request] = count
            left -= count
        return scheduled

    def _room(self, request: Request, count: int) -> bool:
        end = -(-(request.computed + count) // self.blocks.size)
        while len(request.blocks) < end:
            block = self.blocks.take()
            if block is None:
                return False
            request.blocks.append(block)
        return True

    def _grow(self, request: Request, count: int, scheduled: dict[Request, int]) -> bool:
        """Blocks for ``count`` tokens more, at the cost of who came last."""
        while not self._room(request, count):
            victim = self.running.pop()
            scheduled.pop(victim, None)
            self.blocks.give_back(victim)
            self.waiting.appendleft(victim)
            self.counts["preempted"] += 1
            if victim is request:
                return False
        return True

    def _compute(self, scheduled: dict[Request, int]) -> tuple[torch.Tensor, dict[Request, int]]:
        """Logits, and the row of each request in them."""
        longest = max(scheduled.values())
        decodes = sum(count == 1 for count in scheduled.values())
        self.counts["decode" if longest == 1 else "mixed" if decodes else "prefill"] += 1
        step = self._metadata(scheduled, longest)
        if not self.by_rows:
            return self.model.step(step), {one: row for row, one in enumerate(scheduled)}
        hidden = self.model.forward(step)
        last, rows, end = [], dict[Request, int](), 0
        for request, count in scheduled.items():
            end += count
            if request.computed + count == len(request.tokens):
                rows[request] = len(last)
                last.append(end - 1)
            else:
                self.counts["without logits"] += 1
        if not last:
            return hidden.new_zeros(0, 1), rows
        return self.model.logits(hidden[last]), rows

    def _metadata(self, scheduled: dict[Request, int], longest: int) -> OuterStep:
        """Longer buffers than needed, with garbage where nobody may look."""
        size = self.blocks.size
        ids, positions, slots, tables, lengths, ends = [], [], [], [], [], [0]
        for request, count in scheduled.items():
            first, end = request.computed, request.computed + count
            ids += request.tokens[first:end]
            positions += range(first, end)
            slots += [request.blocks[p // size] * size + p % size for p in range(first, end)]
            tables.append(request.blocks + [1 << 30] * (self.width - len(request.blocks)))
            lengths.append(end)
            ends.append(ends[-1] + count)

        def tensor(values: list[int], dtype: torch.dtype) -> torch.Tensor:
            garbage = [-(1 << 30)] * _ROOM
            return torch.tensor(values + garbage, dtype=dtype, device=self.device)

        width = torch.tensor(tables, dtype=torch.int32, device=self.device)
        return OuterStep(
            token_ids=tensor(ids, torch.int32),
            positions=tensor(positions, torch.int64),
            slot_mapping=tensor(slots, torch.int64),
            block_tables=width,
            context_lengths=tensor(lengths, torch.int32),
            cu_seqlens_q=tensor(ends, torch.int32),
            tokens=len(ids),
            sequences=len(scheduled),
            longest_query=longest,
            context_lengths_host=torch.tensor(lengths, dtype=torch.int32),
            cu_seqlens_q_host=torch.tensor(ends, dtype=torch.int32),
        )
