"""What Hugging Face's eager code answers for the prompts of these tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from tests.e2e.grid import VOCABULARY
from tests.support.models import MODERN

LENGTHS = (1, 2, 3, 4, 5, 7, 8, 11, 15, 16, 17, 22, 29, 33, 37, 40)
"""Ragged: around a bucket of 4 and of 16, and around one, two and three blocks of 16."""
NEW_TOKENS = 64


def prompts(seed: int = 5, lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    """Random token ids, none of them an end."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def load_eager(directory: Path, dtype: torch.dtype) -> Any:
    """The stock model of a checkpoint in eager spelling, experts as a plain loop."""
    # transformers 4 knows no other experts than the loop.
    experts = {"experts_implementation": "eager"} if MODERN else {}
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


def describe_difference(
    model: Any, text: Sequence[int], expected: Sequence[int], found: Sequence[int]
) -> str:
    """Where two continuations part, and how close the model's two best logits are there."""
    pairs = zip(expected, found, strict=True)
    place = next((index for index, (one, two) in enumerate(pairs) if one != two), None)
    if place is None:
        return "the same"
    logits = forced_logits(model, [*text, *expected[:place]], len(text) + place)[-1]
    best = logits.topk(2)
    return (
        f"prompt of {len(text)}, new token {place}: {expected[place]} expected, {found[place]} "
        f"found; the two best logits are {float(best.values[0] - best.values[1]):.3g} apart, "
        f"expected and found {float(logits[expected[place]] - logits[found[place]]):.3g}, "
        f"logits deviate by {float(logits.std()):.3g}"
    )
