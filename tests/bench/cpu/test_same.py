"""Another model is told from one whose arithmetic differs, and from a tie between experts."""

from __future__ import annotations

from typing import Any

import torch

from bench.cpu.same import Difference, differences


class Told:
    """A side with given logits."""

    def __init__(self, name: str, logits: torch.Tensor) -> None:
        self.name, self._logits = name, logits

    def ask(self, order: str, **given: Any) -> dict[str, Any]:
        assert order == "answers" and len(given["prompts"]) == len(given["steps"][0])
        return {"logits": self._logits.tolist()}


def test_one_step_may_differ_and_not_the_middle_of_them() -> None:
    generator = torch.Generator().manual_seed(0)
    first, other = (torch.rand(9, 2, 50, generator=generator) for _ in range(2))
    tie = first + 1e-6
    tie[4] = other[4]
    logits = {"first": first, "rounded": first + 1e-6, "tie": tie, "other": other}
    sides: Any = [Told(name, each) for name, each in logits.items()]
    rounded, tied, wrong = differences(sides, 50)
    assert rounded.side == "rounded" and rounded.agreeing == rounded.tokens == 18
    assert rounded.is_same("float32") and tied.is_same("float32") and tied.largest > 0.1
    assert tied.agreeing < 18
    assert not wrong.is_same("float32") and not wrong.is_same("bfloat16")
    assert Difference("it", 0.01, 0.01, 1, 1).is_same("bfloat16")
