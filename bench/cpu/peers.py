"""Ways to run one decode step: ours and the peers, under one small interface.

A stepper takes the batch's token ids and returns the ids of the next tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import glmc_runtime
from bench.hugging_face import cache_of, with_cache

Step = Callable[[list[int]], list[int]]


def load_eager(checkpoint: Path) -> Any:
    """The Hugging Face model as anybody loads it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    return model.eval()


def _greedy(logits: torch.Tensor) -> list[int]:
    tokens: list[int] = logits.argmax(-1).tolist()
    return tokens


def eager(model: Any, prompts: list[list[int]]) -> Step:
    """``model.forward`` with a DynamicCache, prompts of one length."""
    past = cache_of(model(torch.tensor(prompts), use_cache=True))

    def step(tokens: list[int]) -> list[int]:
        ids = torch.tensor(tokens).unsqueeze(1)
        return _greedy(model(ids, **with_cache(past)).logits[:, -1])

    return step


def _static(model: Any, prompts: list[list[int]], longest: int) -> tuple[Any, torch.Tensor]:
    cache = transformers.StaticCache(config=model.config, max_cache_len=longest)
    positions = torch.arange(len(prompts[0]))
    model(torch.tensor(prompts), cache_position=positions, **with_cache(cache))
    return cache, torch.tensor([len(prompts[0])])


def compiled(model: Any, prompts: list[list[int]], longest: int) -> Step:
    """``torch.compile`` of the forward over a StaticCache, the documented fast way."""
    cache, position = _static(model, prompts, longest)
    torch._dynamo.reset()
    forward = torch.compile(model.forward, dynamic=False)

    def step(tokens: list[int]) -> list[int]:
        ids = torch.tensor(tokens).unsqueeze(1)
        result = forward(
            ids,
            cache_position=position,
            position_ids=position.expand(len(tokens), 1),
            **with_cache(cache),
        )
        position.add_(1)
        return _greedy(result.logits[:, -1])

    return step


def ours(artifact: Path, prompts: list[list[int]]) -> Step:
    """A glmc session on the same prompts."""
    session = glmc_runtime.load(artifact, verify_hashes=False)
    sequences = [session.sequence(prompt) for prompt in prompts]
    session.prefill(sequences)
    return lambda tokens: _greedy(session.decode(sequences, tokens))
