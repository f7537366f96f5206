"""The training loop and the loss on held-out text."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from tiny.routing import Balance

SEQUENCE_LENGTH = 256


@dataclass(frozen=True)
class Settings:
    """Everything that decides the result, besides corpus and architecture."""

    seed: int
    steps: int
    batch: int = 4
    peak_rate: float = 4e-3
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; afterwards it falls to zero."""
    weight_decay: float = 0.1
    bias_rate: float = 1e-3
    """Largest step of a gate's correction bias; falls with the learning rate."""


@dataclass(frozen=True)
class Outcome:
    """What a training run measured."""

    tokens: int
    seconds: float
    last_loss: float
    """Mean training loss of the last twentieth of the steps, in nats per token."""


def batches(documents: list[list[int]], settings: Settings) -> Iterator[torch.Tensor]:
    """Endless batches int64 [batch, SEQUENCE_LENGTH + 1], reshuffled by document each epoch."""
    order = random.Random(settings.seed)
    rows: list[list[int]] = []
    stream: list[int] = []
    while True:
        for document in order.sample(documents, len(documents)):
            stream.extend(document)
        rows = [
            stream[start : start + SEQUENCE_LENGTH + 1]
            for start in range(0, len(stream) - SEQUENCE_LENGTH, SEQUENCE_LENGTH)
        ]
        # Mixed again, or one batch would hold little but consecutive pieces of one long text.
        order.shuffle(rows)
        stream = []
        for start in range(0, len(rows) - settings.batch + 1, settings.batch):
            yield torch.tensor(rows[start : start + settings.batch])


def train(
    model: PreTrainedModel,
    documents: list[list[int]],
    settings: Settings,
    balance: Balance | None,
    report: Callable[[str], None],
) -> Outcome:
    """Train ``model`` in place with AdamW on next-token loss, in fp32."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.peak_rate, betas=(0.9, 0.95), fused=True)
    model.train()
    source = batches(documents, settings)
    losses: list[float] = []
    start = time.monotonic()
    for step in range(settings.steps):
        scale = _schedule(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = settings.peak_rate * scale
        loss = _next_token_loss(model, next(source))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if balance is not None:
            balance.nudge(settings.bias_rate * scale)
        losses.append(loss.item())
        if step % 100 == 99:
            seconds = time.monotonic() - start
            report(f"step {step + 1}/{settings.steps}  loss {losses[-1]:.3f}  {seconds:.0f} s")
    tail = losses[-max(1, settings.steps // 20) :]
    return Outcome(
        tokens=settings.steps * settings.batch * SEQUENCE_LENGTH,
        seconds=time.monotonic() - start,
        last_loss=sum(tail) / len(tail),
    )


@torch.no_grad()
def held_out_loss(model: PreTrainedModel, documents: list[list[int]]) -> float:
    """Mean loss in nats per token over all held-out text, cut into training-sized rows."""
    model.eval()
    stream = [token for document in documents for token in document]
    rows = [
        stream[start : start + SEQUENCE_LENGTH + 1]
        for start in range(0, len(stream) - SEQUENCE_LENGTH, SEQUENCE_LENGTH)
    ]
    return float(_next_token_loss(model, torch.tensor(rows)))


def _next_token_loss(model: PreTrainedModel, rows: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits.float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def _schedule(step: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine down to zero; in (0, 1]."""
    warmup = max(1, round(settings.steps * settings.warmup))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, settings.steps - warmup)))
