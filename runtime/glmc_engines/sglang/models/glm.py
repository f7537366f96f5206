"""The GLM architectures in SGLang: each step is one replay of our plan over SGLang's KV pool."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from sglang.srt.layers.logits_processor import LogitsProcessor
from torch import nn

from glmc_engines.core.errors import EngineVersionError, UnsupportedError
from glmc_engines.sglang import compat
from glmc_engines.sglang.artifact import Found, artifact_for
from glmc_engines.sglang.plugin import route_attention_backends
from glmc_engines.sglang.serving import Serving


class PlanForCausalLM(nn.Module):
    """What SGLang asks of a model: weights, hidden states of a batch, logits of chosen rows.

    Where plans can't serve what the options ask for, and need not, SGLang's own class is made in
    place of this one.
    """

    # SGLang refuses to change weights under a running server where a module says why not.
    _derived_weight_cache_error = (
        "glmc serves weights that are packed for its kernels; to serve others, start a server anew"
    )
    _found: Found

    def __new__(cls, config: Any, quant_config: Any = None, prefix: str = "", **named: Any) -> Any:
        found = artifact_for(config, quant_config)
        if found is None:
            made = compat.in_tree_class(cls.__name__)
            return made(config=config, quant_config=quant_config, **named)
        model = super().__new__(cls)
        model._found = found
        return model

    def __init__(
        self, config: Any, quant_config: Any = None, prefix: str = "", **named: Any
    ) -> None:
        super().__init__()
        self.config = config
        self.quant_config = quant_config
        self._serving: Serving | None = None
        self.lm_head = compat.Head(self._logits)
        # Each rank has whole logits, so SGLang has none to gather.
        self.logits_processor = LogitsProcessor(config, skip_all_gather=True)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Those of the checkpoint, or the artifact's own: the checkpoint is not read then."""
        if self._serving is not None:
            raise UnsupportedError(self._derived_weight_cache_error, place="a reload of weights")
        route_attention_backends()  # again: another plug-in's may have come after ours
        self._serving = Serving(self._found, weights)

    def attach(self, pools: compat.Pools) -> None:
        """Called by our attention backend, which SGLang makes after its pools."""
        self._loaded().attach(pools)

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: Any,
        input_embeds: torch.Tensor | None = None,
        **named: Any,
    ) -> Any:
        """SGLang's output of a batch: logits of the rows that it samples from or reports."""
        if input_embeds is not None:
            raise UnsupportedError("compiled plans do not have prompts of embeddings")
        hidden = self._loaded().hidden(input_ids, positions, forward_batch)
        return self.logits_processor(input_ids, hidden, self.lm_head, forward_batch)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._loaded().logits(hidden)

    def _loaded(self) -> Serving:
        if self._serving is None:
            raise EngineVersionError(
                "SGLang has loaded no weights into the model",
                place=f"--load-format {compat.option('load_format')}",
                expected="a call of load_weights before the pools are made",
            )
        return self._serving


class Glm4MoeForCausalLM(PlanForCausalLM):
    """GLM-4.5, 4.6 and 4.7."""


class Glm4ForCausalLM(PlanForCausalLM):
    """GLM-4 of 0414."""


class GlmForCausalLM(PlanForCausalLM):
    """GLM-4-9B in the format of transformers."""


EntryClass = [Glm4MoeForCausalLM, Glm4ForCausalLM, GlmForCausalLM]
