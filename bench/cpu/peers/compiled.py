"""``torch.compile`` of the forward over a StaticCache, the documented fast way; eager prefill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from bench.cpu.peers import Source
from bench.cpu.peers.eager import Eager, load_eager
from bench.hugging_face import with_cache


@dataclass
class Static:
    """A cache of fixed length and where the next token goes."""

    cache: Any
    position: torch.Tensor


class Compiled(Eager):
    """The model and its compiled forward, compiled anew for each batch size."""

    prefills = False

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._forward: Any = torch.compile(model.forward, dynamic=False)

    @torch.no_grad()
    def prefill(self, prompts: Sequence[list[int]], room: int) -> tuple[Any, Any]:
        torch._dynamo.reset()
        length = len(prompts[0])
        cache = transformers.StaticCache(config=self.model.config, max_cache_len=length + room)
        output = self.model(
            torch.tensor(prompts),
            cache_position=torch.arange(length),
            logits_to_keep=1,
            **with_cache(cache),
        )
        return Static(cache, torch.tensor([length])), output.logits[:, -1]

    @torch.no_grad()
    def decode(self, sequences: Static, tokens: list[int]) -> Any:
        result = self._forward(
            torch.tensor(tokens).unsqueeze(1),
            cache_position=sequences.position,
            position_ids=sequences.position.expand(len(tokens), 1),
            **with_cache(sequences.cache),
        )
        sequences.position.add_(1)
        return result.logits[:, -1]


def load(source: Source) -> Compiled:
    return Compiled(load_eager(source.checkpoint, getattr(torch, source.dtype)))
