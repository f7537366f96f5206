"""Hugging Face's eager code, whatever else is installed: models, greedy tokens, forced logits.

It imports nothing of glmc's, so that an engine's own environment can ask it, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

NEW_TOKENS = 64


def load_eager(directory: Path, dtype: torch.dtype) -> Any:
    """The stock model of a checkpoint in eager spelling, experts as a plain loop."""
    modern = int(transformers.__version__.split(".", maxsplit=1)[0]) >= 5
    # transformers 4 knows no other experts than the loop.
    experts = {"experts_implementation": "eager"} if modern else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", **experts
    )
    return model.requires_grad_(False).eval()


@torch.no_grad()
def greedy(model: Any, texts: Sequence[Sequence[int]], count: int = NEW_TOKENS) -> list[list[int]]:
    """``count`` greedy tokens for each text, whatever they are; ends are not obeyed.

    All texts run in one batch, padded on the left; a test holds single ones against it.
    """
    width = max(map(len, texts))
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, width - len(text) :] = torch.tensor(text)
        mask[row, width - len(text) :] = 1
    settings = {"do_sample": False, "max_new_tokens": count, "eos_token_id": None}
    found = model.generate(ids, attention_mask=mask, pad_token_id=0, **settings)
    return [[int(token) for token in row] for row in found[:, width:]]


@torch.no_grad()
def forced_logits(model: Any, text: Sequence[int], first: int) -> Tensor:
    """float32 logits after each of ``text[first - 1:]``, from one pass over the whole text.

    Returns [len(text) - first + 1, vocabulary].
    """
    output = model(input_ids=torch.tensor([list(text)]), use_cache=False)
    logits: Tensor = output.logits[0, first - 1 :]
    return logits.float()
