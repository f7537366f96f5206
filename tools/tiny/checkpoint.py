"""Saving a trained model as published checkpoints are saved, and measuring what was saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tiny.routing import Balance, LayerRouting
from tiny.tokenizer import stop_ids
from tiny.training import held_out_loss

PROMPTS = (
    "Redistribution and use in source and binary forms, with or without modification,",
    "textwrap.indent(text, prefix, predicate=None)\n\n",
    "<|user|>\nWhat is pathlib.Path?<|assistant|>\n",
)
SAMPLE_TOKENS = 48


@dataclass(frozen=True)
class Measured:
    """Numbers taken from the files on disk, not from the model in memory."""

    parameters: int
    weight_bytes: int
    held_out_tokens: int
    held_out_loss: float
    routing: tuple[LayerRouting, ...]
    samples: tuple[tuple[str, str], ...]
    """(prompt, greedy continuation of SAMPLE_TOKENS tokens at most)."""


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write bf16 weights, configuration, generation defaults and tokenizer into ``folder``.

    Only parameters are cast: the correction bias of a gate is a buffer and stays fp32.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.generation_config = GenerationConfig(
        eos_token_id=stop_ids(tokenizer), pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(folder: Path, held_out: list[list[int]]) -> Measured:
    """Load ``folder`` as a user would and measure it in bf16 on ``held_out`` token ids."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    balance = Balance(model)
    loss = held_out_loss(model, held_out)
    routing = balance.statistics()
    return Measured(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weight_bytes=(folder / "model.safetensors").stat().st_size,
        held_out_tokens=sum(len(document) for document in held_out),
        held_out_loss=loss,
        routing=routing,
        samples=tuple((prompt, _continue(model, tokenizer, prompt)) for prompt in PROMPTS),
    )


@torch.no_grad()
def _continue(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=SAMPLE_TOKENS,
        do_sample=False,
    )
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :]))
