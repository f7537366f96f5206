"""Record the stock Hugging Face model of a checkpoint: prompts, then decode steps over its cache.

Prompts of one length are a batch. Others run one at a time, so that nothing is padded, and their
rows follow each other as in packed tokens (packed_sink.py). torch_xray, whose layout a record has,
shows only modules without children in its documentation; here all modules are recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from glmc.check.align.eager_model import load_eager
from glmc.check.align.module_hooks import ModuleHooks
from glmc.check.align.packed_sink import PackedSink, ShapeSink
from glmc.errors import UsageError
from glmc_runtime.record.like import ModelOfRecord
from glmc_runtime.record.options import MODULE, RecordOptions, fed
from glmc_runtime.record.sink import Sink


@dataclass
class Lane:
    """Sequences that run as one batch: ``ids`` [sequences, tokens] are those of the next step."""

    ids: Tensor
    cache: Any = None

    def run(self, model: Any) -> list[int]:
        """Run a step; returns the likeliest next token of each sequence."""
        output = model(input_ids=self.ids, past_key_values=self.cache, use_cache=True)
        self.cache = output.past_key_values
        tokens: list[int] = output.logits[:, -1].float().argmax(-1).tolist()
        return tokens


def record_checkpoint(
    directory: Path,
    sink: Sink,
    options: RecordOptions,
    *,
    dtype: str | None = None,
    device: str = "cpu",
    check: Callable[[ModelOfRecord], None] | None = None,
) -> tuple[str, ...]:
    """Record a checkpoint's model; returns the names of tensors that could not be joined. What
    ``check`` raises of the model, this raises before anything runs.

    Raises :class:`CheckpointError`, and :class:`UsageError` for token ids that the model has not.
    """
    model = load_eager(directory, dtype, device)
    config = model.config.get_text_config()
    name = directory.resolve().name
    about = ModelOfRecord(name, config.num_hidden_layers, config.vocab_size)
    if check is not None:
        check(about)
    sink.describe(
        {
            **about.facts(),
            "target": "eager",
            "dtype": str(model.dtype).removeprefix("torch."),
            "emulated": False,
            "made_by": f"Hugging Face transformers {transformers.__version__}, {device}",
            "level": options.level,
        }
    )
    return record_model(model, sink, options)


@torch.no_grad()
def record_model(model: Any, sink: Sink, options: RecordOptions) -> tuple[str, ...]:
    """Record a model that is in memory; as :func:`record_checkpoint`."""
    _check_ids(model, options)
    left_out: tuple[str, ...] = ()
    if len(set(options.lengths)) == 1:
        lanes = [Lane(torch.tensor(options.prompts, device=model.device))]
        tokens = _run(model, sink, options, lanes)
    else:
        lanes = [Lane(torch.tensor([each], device=model.device)) for each in options.prompts]
        packed = _packed(model, sink, options)
        tokens = _run(model, packed, options, lanes)
        left_out = tuple(packed.left_out)
    facts = {"prompts": list(map(list, options.prompts)), "tokens": tokens}
    sink.describe({**facts, **({"left_out": list(left_out)} if left_out else {})})
    return left_out


def _run(model: Any, sink: Sink, options: RecordOptions, lanes: Sequence[Lane]) -> list[list[int]]:
    """Prefill and decode; returns the tokens of each sequence that decode steps computed."""
    tokens: list[list[int]] = [[] for _ in options.prompts]
    packed = isinstance(sink, PackedSink)
    # The ops that experts run are as many as experts were chosen: which of them made a tensor that
    # is met again differs between sequences.
    links = not packed or options.level == MODULE
    with ModuleHooks(model, sink, options, links=links) as hooks:
        for step in range(options.steps + 1):
            if step:
                for lane, ids in zip(lanes, _dealt(fed(tokens, step), lanes), strict=True):
                    lane.ids = torch.tensor(ids, device=model.device)[:, None]
            sink.begin(step, [1] * len(tokens) if step else options.lengths)
            likeliest: list[int] = []
            for number, lane in enumerate(lanes):
                if isinstance(sink, PackedSink):
                    sink.sequence = number
                hooks.begin(step)
                likeliest += lane.run(model)
            if step < options.steps:
                given = options.tokens and fed(options.tokens, step + 1)
                for sequence, token in zip(tokens, given or likeliest, strict=True):
                    sequence.append(token)
    return tokens


def _dealt(tokens: list[int], lanes: Sequence[Lane]) -> list[list[int]]:
    """The tokens of all sequences, by lane."""
    return [tokens] if len(lanes) == 1 else [[token] for token in tokens]


def _packed(model: Any, sink: Sink, options: RecordOptions) -> PackedSink:
    """The sink that joins sequences, once a run of another length has shown the shapes."""
    taken = options.lengths
    length = next(size for size in range(2, len(taken) + 3) if size not in taken)
    first = options.prompts[0]
    prompt = tuple(first[place % len(first)] for place in range(length))
    probe = replace(options, prompts=(prompt,), steps=min(options.steps, 1), tokens=None)
    shapes = ShapeSink()
    _run(model, shapes, probe, [Lane(torch.tensor([prompt], device=model.device))])
    return PackedSink(sink, options.lengths, shapes.shapes, length)


def _check_ids(model: Any, options: RecordOptions) -> None:
    """Refuse ids that no embedding has, which a device would only notice much later."""
    count = int(model.get_input_embeddings().num_embeddings)
    given = (*options.prompts, *(options.tokens or ()))
    wrong = [token for each in given for token in each if not 0 <= token < count]
    if wrong:
        raise UsageError(
            "a token id is not in the model's vocabulary",
            expected=f"0 to {count - 1}",
            found=str(wrong[0]),
            remedy="pass ids of this model's tokenizer",
        )
