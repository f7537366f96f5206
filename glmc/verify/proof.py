"""The proof of one compile: what is verified, with which inputs and weights, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from glmc.config import CompileOptions
from glmc.driver import Compiled, front_end
from glmc.ir.program import Program
from glmc.passes import specialise
from glmc.presets.catalog import ModelSource
from glmc.verify.cases import Case, cases, real_prompts
from glmc.verify.verdict import Verdict
from glmc.verify.verifier import PHASES, Verifier
from glmc.verify.weights import ModelWeights
from glmc.weights.checkpoint import open_checkpoint
from glmc.weights.random import RandomWeights

SMALL_BLOCK = 16


@dataclass
class Proof:
    """Give it to the driver. :meth:`prepare` and :meth:`watch` raise VerificationError.

    ``tell`` is called with each step and its verdict, as soon as it is known.
    """

    source: ModelSource
    options: CompileOptions
    verdicts: dict[str, str] = field(default_factory=dict)
    tell: Callable[[str, str], None] = lambda name, text: None
    _exact: Mapping[str, Verdict] = field(default_factory=dict)
    _verifier: Verifier = field(init=False)

    def __post_init__(self) -> None:
        self._verifier = self._new(self._weights())

    def prepare(self) -> None:
        """Verify the same passes over the model in float32, whose bounds are the tightest.

        Blocks of the cache are small there, so that a sequence has several.
        """
        twin = self._new(self._weights())
        options = replace(self.options, dtype="float32", block_size=SMALL_BLOCK)
        front_end(self.source, options, watch=twin.watch)
        self._exact = twin.verdicts

    def watch(self, name: str, program: Program) -> None:
        """Verify the step that has just left ``program``."""
        try:
            self._verifier.watch(name, program)
        finally:
            self._tell(name, program)

    def planned(self, compiled: Compiled) -> Mapping[str, str]:
        """The verdicts by pass, for the report."""
        found = {name: text for name, text in self.verdicts.items() if name not in PHASES}
        both = (f"{name} {self.verdicts[name]}" for name in PHASES if name in self.verdicts)
        return {**found, specialise.NAME: "; ".join(both)}

    def _tell(self, name: str, program: Program) -> None:
        program.notes["verdicts"] = self.verdicts
        verdict = self._verifier.verdicts.get(name)
        if verdict is None:
            return
        text = verdict.text
        exact = self._exact.get(name)
        if exact is not None:
            text += f"; in float32 {exact.text}"
        self.verdicts[name] = text
        self.tell(name, text)

    def _new(self, weights: ModelWeights) -> Verifier:
        return Verifier(model_cases(self.source), weights)

    def _weights(self) -> ModelWeights:
        return model_weights(self.source, self.options)


def model_cases(source: ModelSource) -> tuple[Case, ...]:
    """The inputs for a model: real prompts where it has a tokenizer."""
    return cases(
        source.shape.vocabulary,
        routed=source.fields.moe_layers > 0,
        texts=real_prompts(source.directory),
    )


def model_weights(source: ModelSource, options: CompileOptions) -> ModelWeights:
    """Those of the checkpoint, or random ones where there is none or none are wanted."""
    if source.directory is not None and options.weights == "checkpoint":
        return ModelWeights.of(open_checkpoint(source.directory, source.fields))
    dtype = getattr(torch, options.dtype) if options.dtype else source.dtype
    return ModelWeights.of(RandomWeights(source.fields, dtype, options.seed))
