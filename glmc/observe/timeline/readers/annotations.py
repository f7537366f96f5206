"""Names that engines give to the ranges of their steps, and what they say of a step.

vLLM: ``execute_context_0(0)_generation_16(16)``, requests and tokens of prompts and of answers,
and in its longer form ``execute_16_context_0(sq0sk0...)_generation_16(sq16sk8192...)``. SGLang:
``step[DECODE bs=16]``, ``step[EXTEND bs=4 toks=512]``. torch.profiler: ``ProfilerStep#3``.
"""

from __future__ import annotations

import re

from glmc.observe.timeline.table import StepKind

PREFILL, DECODE, MIXED = "prefill", "decode", "mixed"
_VLLM = re.compile(
    r"^execute_(?:\d+_)?context_(\d+)\((?:sq)?(\d+)[^)]*\)_generation_(\d+)\((?:sq)?(\d+)[^)]*\)$"
)
_SGLANG = re.compile(r"^step\[\s*(\w+) bs=(\d+)(?: toks=(\d+))?[^\]]*\]$")
_PROFILER_STEP = re.compile(r"^ProfilerStep#\d+$")
_PHASES = {"DECODE": DECODE, "EXTEND": PREFILL, "MIXED": MIXED}


def step_kind(name: str) -> StepKind | None:
    """The kind of the step that a range's name tells of, None for another range."""
    if match := _VLLM.match(name):
        prompts, prompt_tokens, answers, answer_tokens = map(int, match.groups())
        phase = MIXED if prompts and answers else PREFILL if prompts else DECODE
        return StepKind(phase, prompts + answers, prompt_tokens + answer_tokens)
    if match := _SGLANG.match(name):
        mode, batch, tokens = match.group(1).upper(), int(match.group(2)), match.group(3)
        phase = _PHASES.get(mode, mode.lower())
        one_each = phase == DECODE and tokens is None
        return StepKind(phase, batch, batch if one_each else int(tokens) if tokens else None)
    return None


def is_sglang_step(name: str) -> bool:
    """Whether a range is a step of SGLang's."""
    return _SGLANG.match(name) is not None


def is_profiler_step(name: str) -> bool:
    """Whether a range is a step of torch.profiler's own, which says nothing of its work."""
    return _PROFILER_STEP.match(name) is not None
