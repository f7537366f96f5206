"""Inputs of a proof: real prompts, and inputs and weights made to go wrong.

| case | what it is for |
|---|---|
| prompts | texts by the checkpoint's own tokenizer, or random token ids |
| one token | sizes of 1; attention that sees itself |
| many tokens | longer than a block of keys; more rows than an expert is asked for elsewhere |
| one token repeated | equal rows |
| ties | pairs of experts with the same scores, all without a correction bias |
| all scores equal | experts of one row, which makes all scores 0 or all 1 |
| large negative scores | every biased score far below 0, where a fill of 0 would win |
| small activations | activations so small that the eps of a norm decides |
| peaked softmax | scores so far apart that a softmax chooses one key |

Cases of the second half change weights, so that every layer meets them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from glmc.check.verify.random_weights import scaled
from glmc.check.verify.weights import Alteration
from glmc.ir.tolerance import LONGEST
from glmc_runtime.generate.text import Text

TEXTS = (
    "The compiler reads the model, folds its layers and writes a plan; 17 + 25 = 42.",
    "今天天气很好,我们一起去公园散步。What does the second layer do?",
)
_ROUTER = ".mlp.gate.weight"
_BIAS = "e_score_correction_bias"


@dataclass(frozen=True)
class Case:
    """``token_ids`` int64 [batch, tokens]; ``alteration`` changes the weights for this case.

    Where scores are not ``decided``, sums in another order choose other experts, rightly: such a
    case is only for passes that must be equal in the gate.
    """

    name: str
    token_ids: Tensor
    alteration: Alteration | None = None
    decided: bool = True

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The step inputs of a stateless program."""
        batch, tokens = self.token_ids.shape
        return {
            "token_ids": self.token_ids,
            "positions": torch.arange(tokens).expand(batch, tokens).contiguous(),
        }


def cases(
    vocabulary: int,
    *,
    routed: bool,
    texts: Sequence[Sequence[int]] = (),
    longest: int = LONGEST,
    seed: int = 0,
) -> tuple[Case, ...]:
    """The cases of a model; ``routed`` for a mixture of experts.

    ``texts`` are real prompts as token ids. No case has more than ``longest`` tokens in all.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(batch: int, tokens: int) -> Tensor:
        return torch.randint(0, vocabulary, (batch, tokens), generator=generator)

    few = max(1, min(9, longest // 2))
    prompts = _together(texts, longest) if texts else random(2 if longest > 1 else 1, few)
    short = prompts[:, :few]
    all_cases = [
        Case("real prompts" if texts else "random tokens", prompts),
        Case("one token", random(1, 1)),
        Case("many tokens", random(1, longest)),
        Case("one token repeated", random(1, 1).expand(1, few).contiguous()),
        Case("small activations", short, small_activations),
        Case("peaked softmax", short, _peaked_softmax),
    ]
    if routed:
        all_cases += [
            Case("ties in scores", short, _ties, decided=False),
            Case("all scores equal", short, _equal, decided=False),
            Case("large negative scores", short, _negative),
        ]
    return tuple(all_cases)


def real_prompts(directory: Path | None) -> list[list[int]]:
    """``TEXTS`` by the tokenizer of a checkpoint; none where there is no tokenizer."""
    if directory is None or not (text := Text(directory)).available:
        return []
    return [text.encode(prompt) for prompt in TEXTS]


def _together(texts: Sequence[Sequence[int]], longest: int) -> Tensor:
    """The beginnings of texts as rows of one length."""
    texts = texts[:longest]
    length = max(1, min(*map(len, texts), longest // len(texts)))
    return torch.tensor([list(text[:length]) for text in texts])


def _ties(name: str, value: Tensor) -> Tensor:
    """Experts 2i and 2i + 1 score the same, and nothing tells them apart."""
    if name.endswith(_ROUTER):
        pairs = value[0::2].repeat_interleave(2, 0)
        return torch.cat((pairs, value[len(pairs) :]))[: len(value)]
    return torch.zeros_like(value) if name.endswith(_BIAS) else value


def _equal(name: str, value: Tensor) -> Tensor:
    if name.endswith(_ROUTER):
        return value[:1].expand_as(value) * 4096.0
    return torch.zeros_like(value) if name.endswith(_BIAS) else value


def _negative(name: str, value: Tensor) -> Tensor:
    return value - 64.0 if name.endswith(_BIAS) else value


def small_activations(name: str, value: Tensor) -> Tensor:
    """An alteration: residuals, queries and keys near the square root of an eps."""
    unscaled = ("norm.weight", _ROUTER, _BIAS, "lm_head.weight")
    return value if name.endswith(unscaled) else scaled(value, 2.0**-8)


def _peaked_softmax(name: str, value: Tensor) -> Tensor:
    louder = ("q_proj.weight", "k_proj.weight", "q_norm.weight", "k_norm.weight")
    return scaled(value, 8.0) if name.endswith(louder) else value
