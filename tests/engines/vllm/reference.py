"""What transformers answers to prompts: greedy tokens, their margins, probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[3]
CLOSE = 1e-3
"""A margin between the two likeliest tokens below which either may come."""


@dataclass(frozen=True)
class Answer:
    """The greedy answer to a prompt, and how far ahead each of its tokens was."""

    prompt: list[int]
    tokens: list[int]
    margins: list[float]

    def agrees(self, tokens: list[int]) -> bool:
        """Whether these are the tokens, up to the first that either may have been."""
        for has, wanted, margin in zip(tokens, self.tokens, self.margins, strict=True):
            if has != wanted:
                return margin < CLOSE
        return True

    def begins(self, tokens: list[int], at_least: int) -> bool:
        """Whether these are the first tokens, so many or more."""
        heard = len(tokens)
        begun = Answer(self.prompt, self.tokens[:heard], self.margins[:heard])
        return at_least <= heard <= len(self.tokens) and begun.agrees(tokens)


class Reference:
    """A model of transformers in float32."""

    def __init__(self, path: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.vocabulary = 1500  # without the special tokens

    def prompts(self, number: int, longest: int = 80) -> list[list[int]]:
        """Random prompts of different lengths, always the same."""
        generator = torch.Generator().manual_seed(1)
        lengths = torch.randint(3, longest, (number,), generator=generator).tolist()
        return [
            torch.randint(0, self.vocabulary, (length,), generator=generator).tolist()
            for length in lengths
        ]

    @torch.inference_mode()
    def answer(self, prompt: list[int], number: int, penalty: float = 1.0) -> Answer:
        """The greedy tokens after a prompt, with a repetition penalty."""
        tokens: list[int] = []
        margins: list[float] = []
        step, cache = torch.tensor([prompt]), None
        for _ in range(number):
            result = self.model(step, past_key_values=cache, use_cache=True)
            logits, cache = result.logits[0, -1].clone(), result.past_key_values
            seen = torch.tensor(sorted({*prompt, *tokens}))
            logits[seen] = torch.where(
                logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty
            )
            top = logits.topk(2)
            tokens.append(int(top.indices[0]))
            margins.append(float(top.values[0] - top.values[1]))
            step = top.indices[:1][None]
        return Answer(prompt, tokens, margins)

    def with_penalties(
        self, prompt: list[int], tokens: list[int], presence: float = 0.0, frequency: float = 0.0
    ) -> Answer:
        """What is likeliest after each of the tokens of an answer, with penalties on those until
        there: the greedy answer, as far as these are it."""
        rows = self.log_probabilities([*prompt, *tokens])[len(prompt) - 1 : -1]
        each = torch.nn.functional.one_hot(torch.tensor(tokens), rows.shape[-1])
        counts = each.cumsum(0) - each
        top = (rows - presence * (counts > 0) - frequency * counts).topk(2)
        margins = top.values[:, 0] - top.values[:, 1]
        return Answer(prompt, top.indices[:, 0].tolist(), margins.tolist())

    @torch.inference_mode()
    def log_probabilities(self, tokens: list[int]) -> torch.Tensor:
        """[tokens, vocabulary], after each of them."""
        logits: torch.Tensor = self.model(torch.tensor([tokens])).logits[0]
        return logits.log_softmax(-1)
