"""Hugging Face as anybody loads it: ``model.forward`` with a DynamicCache, prompts of one length.

Logits of a prefill are those of the last tokens alone, as ``generate`` asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from bench.cpu.peers import Source
from bench.hugging_face import cache_of, with_cache


def load_eager(checkpoint: Path, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The Hugging Face model as anybody loads it."""
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).eval()


class Eager:
    """The model and, for sequences, its cache."""

    prefills = True
    hashing = None
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[list[int]], room: int) -> tuple[Any, Any]:
        output = self.model(torch.tensor(prompts), use_cache=True, logits_to_keep=1)
        return cache_of(output), output.logits[:, -1]

    @torch.inference_mode()
    def decode(self, sequences: Any, tokens: list[int]) -> Any:
        ids = torch.tensor(tokens).unsqueeze(1)
        return self.model(ids, **with_cache(sequences)).logits[:, -1]

    def release(self, sequences: Any) -> None:
        """The cache goes with its last reference."""


def load(source: Source) -> Eager:
    return Eager(load_eager(source.checkpoint, getattr(torch, source.dtype)))
