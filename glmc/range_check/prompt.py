"""The calibration prompt: what was given, else a text of ours, else a fixed row of token ids."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glmc.errors import UsageError
from glmc.job import Job
from glmc_runtime.generate.text import Text

TEXT = """The quick survey of 1987 counted 4,096 birds; by 2024 only 12 % were left. Why?
今天的会议改到下午三点,请大家准备好第二季度的报告。谢谢!
def mean(values: list[float]) -> float:
    return sum(values) / len(values)  # fails for an empty list
Solve 3x + 17 = 42, then write x as a fraction: x = 25/3. {"answer": [8.33, null, true]}
"""
"""Prose, Chinese, code, numbers and marks."""
TOKENS = 128
"""Token ids where there is no tokenizer."""
LONGEST = 1024
"""No more than so many tokens of a given text are run."""


@dataclass(frozen=True)
class Prompt:
    """``token_ids`` int64 [1, tokens]; ``description`` says whose they are."""

    token_ids: Tensor
    description: str


def calibration_prompt(job: Job) -> Prompt:
    """The prompt of a job; raises UsageError for a text that no tokenizer can encode."""
    given, directory = job.options.calibration_prompt, job.source.directory
    text = None if directory is None else Text(directory)
    longest = min(LONGEST, job.lowering.max_context)
    if text is None or not text.available:
        if given is not None:
            raise UsageError(
                "the calibration prompt is a text, and the model has no tokenizer for it",
                place=job.source.name,
                expected="tokenizer.json in the checkpoint, and the package tokenizers",
                remedy="drop --calibration-prompt: fixed token ids are run then",
            )
        generator = torch.Generator().manual_seed(0)
        size = (1, min(TOKENS, longest))
        ids = torch.randint(0, job.source.shape.vocabulary, size, generator=generator)
        return Prompt(ids, f"{size[1]} fixed token ids, as there is no tokenizer")
    ids = torch.tensor([text.encode(TEXT if given is None else given)[:longest]])
    if not ids.numel():
        raise UsageError("the calibration prompt is empty", remedy="give a text of some sentences")
    whose = "our own text" if given is None else "the text that was given"
    return Prompt(ids.long(), f"{ids.shape[1]} tokens of {whose}")
