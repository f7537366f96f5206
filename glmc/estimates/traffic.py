"""What is asked of a device: how many sequences, how long, and prompts of which length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from glmc.config import CompileOptions
from glmc.errors import UsageError
from glmc_runtime.arguments import integer, items_of

USUAL_CONTEXT = 8192
"""Tokens of a sequence where nobody says."""
MOST_SEQUENCES = 1 << 20
"""Sizes of larger steps are beyond those of tensors."""


@dataclass(frozen=True)
class Traffic:
    """Sequences of ``context`` tokens, ``batches`` of them at once, and tokens of a ``prompt`` that
    is computed in one step. None: 8192 tokens or all that the model knows, and the largest step of
    a compile without options.
    """

    batches: tuple[int, ...] = (1,)
    context: int | None = None
    prompt: int | None = None

    def known(self, positions: int) -> Traffic:
        """The traffic without blanks, of a model that knows so many positions. Raises UsageError
        for more, and for less than a token or a sequence."""
        context = min(positions, USUAL_CONTEXT) if self.context is None else self.context
        usual = min(context, CompileOptions.prefill_buckets[-1])
        prompt = usual if self.prompt is None else self.prompt
        for name, value in (("context", context), ("prompt", prompt)):
            if not 1 <= value <= positions:
                raise UsageError(
                    "the model does not know positions that far",
                    expected=f"1 to {positions}",
                    found=f"--{name} {value}",
                    remedy=f"choose another --{name}",
                )
        if not self.batches or min(self.batches) < 1 or max(self.batches) > MOST_SEQUENCES:
            raise UsageError(
                "a step decodes at least one sequence, and not more than a tensor can hold",
                expected=f"numbers from 1 to {MOST_SEQUENCES:,}",
                found=f"--batch {','.join(map(str, self.batches))}",
                remedy="--batch 1,16",
            )
        return replace(self, context=context, prompt=prompt)


def traffic_of(options: Mapping[str, Any]) -> Traffic:
    """Traffic by the keywords of :func:`glmc.estimate`; raises UsageError for what is none."""
    batches = options.get("batches", 1)
    if not isinstance(batches, int):
        batches = items_of("batches", batches, "numbers", refuse=UsageError)
    else:
        batches = (batches,)
    context, prompt = options.get("context"), options.get("prompt")
    return Traffic(
        tuple(integer("batches", each, refuse=UsageError) for each in batches),
        None if context is None else integer("context", context, refuse=UsageError),
        None if prompt is None else integer("prompt", prompt, refuse=UsageError),
    )
