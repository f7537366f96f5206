"""Records of one small model, as two implementations would write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glmc.check.align.compare import align
from glmc.check.align.result import AlignedValue, Alignment, Verdict
from glmc.check.align.thresholds import Thresholds
from tests.check.align.memory_record import MemoryRecord

Change = Callable[[Tensor], Tensor]
PROMPTS = [[1, 2, 3, 4], [5, 6]]
FACTS = {"tool": "glmc", "dtype": "bfloat16", "prompts": PROMPTS, "tokens": [[7], [8]]}
LAYERS, HIDDEN, EXPERTS = 3, 32, 8


def rounded(value: Tensor, seed: int, scale: float = 1.0) -> Tensor:
    """As another implementation would have rounded it."""
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed))
    return (value.float() * (1 + scale * 2**-8 * noise)).bfloat16()


class Model:
    """Writes a record of a model with a router in each layer; ``seed`` 0 is the reference. A change
    is of the tensor with the key, wherever it is."""

    def __init__(self, seed: int = 0, **changes: Change) -> None:
        self.seed, self.changes = seed, changes
        self.record = MemoryRecord(f"side {seed}", FACTS)
        self.number = 0

    def made(self) -> MemoryRecord:
        for step, tokens in enumerate((6, 2)):
            self.step, self.tokens = step, tokens
            self.tensor("model.embed_tokens.Embedding.0.forward_output.0", HIDDEN)
            for layer in range(LAYERS):
                self.layer(f"model.layers.{layer}")
            self.tensor("lm_head.Linear.0.forward_output.0", 64)
        return self.record

    def layer(self, name: str) -> None:
        self.tensor(f"{name}.self_attn.q_norm.Norm.0.forward_output.0", 4, 8)
        read = self.tensor(f"{name}.mlp.gate.Router.0.forward_input.0", HIDDEN)
        self.put(f"{name}.post_attention_layernorm.Norm.0.forward_output.0", read)
        scores = torch.rand(self.tokens, EXPERTS, generator=self.generator())
        ids = self.changed(f"{name}.mlp.gate.ids", scores.topk(2)[1])
        weights = torch.gather(scores, 1, ids)
        if self.seed:  # in another order
            ids, weights = ids.flip(-1), weights.flip(-1)
        self.put(f"{name}.mlp.gate.Router.0.forward_output.1", weights)
        self.put(f"{name}.mlp.gate.Router.0.forward_output.2", ids)
        if not self.seed:
            self.put(f"{name}.mlp.gate.router_scores.0.forward_output.0", scores)
        self.tensor(f"{name}.mlp.experts.act_fn.SiLU.0.forward_output.0", HIDDEN)
        self.tensor(f"{name}.Layer.0.forward_output.0", HIDDEN)

    def generator(self) -> torch.Generator:
        self.number += 1
        return torch.Generator().manual_seed(self.number)

    def tensor(self, key: str, *sizes: int) -> Tensor:
        exact = torch.randn(self.tokens, *sizes, generator=self.generator())
        value = exact.bfloat16() if not self.seed else rounded(exact, self.number + 1000)
        value = self.changed(key, value)
        self.put(key, value)
        return value

    def changed(self, key: str, value: Tensor) -> Tensor:
        for name, change in self.changes.items():
            step, _, rest = name.rpartition("@")
            if rest in key and int(step or 0) == self.step:
                value = change(value)
        return value

    def put(self, key: str, value: Tensor) -> None:
        batched = value if self.seed else value[None]
        keep = value if "gate" in key and "output" in key else batched
        facts: dict[str, Any] = {}
        if self.seed:
            facts = {"node": key, "function": "kernel", "passes": ["rms_norm"], "layer": None}
        self.record.add(key, keep, step=self.step, **facts)


def aligned(thresholds: Thresholds | None = None, **changes: Change) -> Alignment:
    return align(Model().made(), Model(1, **changes).made(), thresholds)


def value(found: Alignment, name: str, step: int = 0) -> AlignedValue:
    return next(
        each
        for each in found.values
        if each.step == step and any(name in key for key in (each.name, *each.also))
    )


def wrong(found: Alignment) -> list[str]:
    return [each.name for each in found.values if each.verdict is Verdict.FAIL]
