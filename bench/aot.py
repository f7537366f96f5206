"""The AOTInductor peer: one decode step exported, compiled ahead of time and loaded again.

The exported program is the Hugging Face forward over a cache of fixed size, as ``torch.export``
captures it; the cache tensors are buffers of the module and are updated in place.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.peers import Step


class _Decode(torch.nn.Module):
    """One step: ids [batch, 1] and position [1] -> logits [batch, vocabulary]."""

    def __init__(self, model: Any, cache: Any) -> None:
        super().__init__()
        self.model, self.cache = model, cache
        for index, layer in enumerate(cache.layers):
            self.register_buffer(f"keys_{index}", layer.keys, persistent=False)
            self.register_buffer(f"values_{index}", layer.values, persistent=False)

    def forward(self, ids: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        for index, layer in enumerate(self.cache.layers):
            layer.keys = getattr(self, f"keys_{index}")
            layer.values = getattr(self, f"values_{index}")
            if hasattr(layer, "cumulative_length"):
                layer.cumulative_length = position[0].clone()
        logits: torch.Tensor = self.model(
            ids,
            position_ids=position[None].expand(ids.shape[0], -1),
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        return logits


def stepper(model: Any, prompts: list[list[int]], longest: int) -> Step:
    """Compile the step for this batch size and run it behind the prompts."""
    model.set_experts_implementation("batched_mm")
    cache = transformers.StaticCache(config=model.config, max_cache_len=longest)
    with torch.no_grad():
        model(torch.tensor(prompts), past_key_values=cache, use_cache=True)
        decode = _Decode(model, cache)
        example = (torch.zeros(len(prompts), 1, dtype=torch.int64), torch.tensor([len(prompts[0])]))
        program = torch.export.export(decode, example, strict=False)
        with tempfile.TemporaryDirectory() as folder:
            package = str(Path(folder) / "decode.pt2")
            torch._inductor.aoti_compile_and_package(program, package_path=package)
            forward = torch._inductor.aoti_load_package(package)
    position = len(prompts[0])

    def step(tokens: list[int]) -> list[int]:
        nonlocal position
        logits = forward(torch.tensor(tokens).unsqueeze(1), torch.tensor([position]))
        position += 1
        chosen: list[int] = logits.argmax(-1).tolist()
        return chosen

    return step
