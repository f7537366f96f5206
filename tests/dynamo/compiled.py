"""What the tests of ``torch.compile(backend="kunlun")`` share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch._dynamo.utils import counters

from bench.hugging_face import with_cache
from glmc.dynamo.backend import LISTENERS, CompiledGraph
from tests.support.models import tiny_config, tiny_model

KINDS = ("glm4_moe", "glm4", "glm", "llama", "gpt2")
_SMALL = {"vocab_size": 160, "pad_token_id": 0, "eos_token_id": None, "bos_token_id": None}


def model_of(
    kind: str,
    experts: str = "batched_mm",
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    **overrides: Any,
) -> nn.Module:
    """A tiny model; ``llama`` and ``gpt2`` are no GLM. No end-of-sequence token.

    Two layers if nothing else is said, of GLM-4.5 one dense and one with experts: Dynamo traces
    each layer anew.
    """
    torch.manual_seed(0)
    layers = overrides.setdefault("num_hidden_layers", 2)
    if kind == "llama":
        config: Any = transformers.LlamaConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            **_SMALL,
        )
        model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    elif kind == "gpt2":
        config = transformers.GPT2Config(
            n_embd=64, n_layer=layers, n_head=4, n_positions=256, **_SMALL
        )
        model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    else:
        config = tiny_config(kind, **overrides)
        model = tiny_model(config, dtype)
        model.config._experts_implementation = experts
    model.set_attn_implementation(attention)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()  # type: ignore[no-any-return]


def layer_of(kind: str = "glm4_moe", **overrides: Any) -> nn.Module:
    """One layer, of GLM-4.5 one with experts: where the number of layers is not the point."""
    mixture = {"first_k_dense_replace": 0} if kind == "glm4_moe" else {}
    return model_of(kind, num_hidden_layers=1, **mixture, **overrides)


@contextmanager
def watched() -> Iterator[list[CompiledGraph]]:
    """The graphs that are compiled inside, from a clean Dynamo."""
    torch._dynamo.reset()
    counters.clear()
    graphs: list[CompiledGraph] = []
    token = LISTENERS.set((graphs.append,))
    try:
        yield graphs
    finally:
        LISTENERS.reset(token)


def breaks() -> int:
    return sum(counters["graph_break"].values())


def prompt(batch: int, length: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(4, 100, (batch, length), generator=generator)


def static_cache(model: nn.Module, length: int = 96) -> Any:
    return transformers.StaticCache(config=model.config, max_cache_len=length)


@torch.no_grad()
def decode(model: nn.Module, forward: Any, steps: int, cache: Any, ids: Tensor) -> Tensor:
    """Logits of the prompt's last token and of ``steps`` greedy ones: [batch, steps + 1, vocab]."""
    found = [model(input_ids=ids, **with_cache(cache)).logits[:, -1:]]
    for _ in range(steps):
        chosen = found[-1].argmax(-1)
        found.append(forward(input_ids=chosen, **with_cache(cache)).logits)
    return torch.cat(found, 1)


def fusions(graph: CompiledGraph) -> dict[str, int]:
    return {record.name: len(record.matches) for record in graph.records}
