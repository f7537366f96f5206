"""Model classes for vLLM: its scheduler's step is a replay of a plan.

Of vLLM a class uses how models are built, the attention layer, which asks for a KV cache and is
never called, and the forward context, which has the metadata of a step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import nn

from glmc_engines.core.counters import Counters
from glmc_engines.core.errors import EngineVersionError, UnsupportedError
from glmc_engines.core.options import Options
from glmc_engines.core.served import Served
from glmc_engines.vllm import compat, hooks
from glmc_engines.vllm.artifact import artifact_of
from glmc_engines.vllm.flash_attention import offer_flash_attention
from glmc_engines.vllm.limits import prepare
from glmc_engines.vllm.log import logger
from glmc_runtime import KVTensors

_LOG = logger()


class PlanForCausalLM(nn.Module):
    """A GLM-4.x model that a compiled plan computes.

    Where the plan can't serve what the options ask for, and need not, the class makes vLLM's own
    model in its place.
    """

    # What vLLM's own classes have: options are refused by our own errors, or left to vLLM.
    supports_pp: ClassVar[bool] = True
    supports_lora: ClassVar[bool] = True
    packed_modules_mapping: ClassVar[dict[str, list[str]]] = {}
    embedding_modules: ClassVar[dict[str, str]] = {}
    embedding_padding_modules: ClassVar[list[str]] = []

    def __new__(cls, *, vllm_config: Any, prefix: str = "") -> Any:
        if prepare(vllm_config, compat.check_names):
            return super().__new__(cls)
        Counters.of_rank(compat.tensor_parallel_group()[1]).set("serves", 0)
        return compat.in_tree_class(cls.__name__)(vllm_config=vllm_config, prefix=prefix)

    @compat.names_of_vllm()
    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        from glmc_engines.vllm.backend import backend_for

        model, parallel = vllm_config.model_config, vllm_config.parallel_config
        self.config = model.hf_config
        self._name: str = model.model
        self._dtype: torch.dtype = model.dtype
        self._captures = compat.wants_graphs(vllm_config)
        self._hidden: int = model.get_hidden_size()
        self._found = artifact_of(vllm_config, Options.from_environment())
        manifest = self._found.header.manifest
        self._backend = backend_for(manifest.cache)
        if compat.device_type() == "cuda":
            attention = offer_flash_attention(vllm_config)
            _LOG.info("glmc: prefill and mixed steps attend by %s", attention)
        self._served: Served | None = None
        self._measured = False  # the last run was one that computes nothing
        hooks.hook_worker(vllm_config, _refuse_lost_weights)
        head = model.get_head_size()
        self._layers: list[Any] = [
            compat.attention_class()(
                model.get_num_attention_heads(parallel),
                head,
                head**-0.5,
                num_kv_heads=model.get_num_kv_heads(parallel),
                cache_config=vllm_config.cache_config,
                prefix=f"model.layers.{layer}.self_attn.attn",
                attn_backend=self._backend,
            )
            for layer in range(manifest.model.layers)
        ]
        if vllm_config.load_config.load_format == "dummy":
            self._load(None)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load the artifact; the checkpoint is read where it has no weights of its own."""
        if self._served is not None:
            raise UnsupportedError(
                "weights of a compiled plan can't be loaded again", place="vLLM, reload of weights"
            )
        self._load(weights)
        return set()

    def _load(self, tensors: Iterable[tuple[str, torch.Tensor]] | None) -> None:
        group, rank, size = compat.tensor_parallel_group()
        self._served = Served.load(
            self._found.header,
            self._found.origin,
            rank=rank,
            process_group=group if size > 1 else None,
            tensors=tensors,
            device=compat.device_type(),
        )
        _LOG.info(self._served.first_line(self._name))

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Hidden states of the tokens of a step, [tokens, hidden size]."""
        if input_ids is None or inputs_embeds is not None:
            raise UnsupportedError("compiled plans have no prompt embeddings")
        served = self._loaded()
        metadata = compat.metadata_of(self._layers[0].layer_name)
        self._measured = metadata is None
        if not served.attached:
            self._attach(served, required=metadata is not None)
        if metadata is None:
            return self._nothing(positions)
        # vLLM samples before its next step, on the same stream.
        return served.forward(metadata.step(input_ids, positions), own=False)

    def compute_logits(self, hidden_states: torch.Tensor, *_: Any) -> torch.Tensor:
        """Logits of rows of hidden states, on each rank."""
        served = self._loaded()
        if served.attached:
            return served.logits(hidden_states, own=False)
        if not self._measured:
            raise EngineVersionError(
                "vLLM wants logits of a model that has computed no step", place="vLLM"
            )
        return hidden_states.new_zeros(len(hidden_states), self.config.vocab_size)

    def embed_input_ids(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        raise UnsupportedError("compiled plans have no prompt embeddings")

    get_input_embeddings = embed_input_ids  # of older releases

    def make_empty_intermediate_tensors(self, *_: Any, **__: Any) -> Any:
        raise UnsupportedError("compiled plans have no pipeline stages")

    def _loaded(self) -> Served:
        if self._served is None:
            raise EngineVersionError(
                "vLLM runs a model whose weights it has not loaded", place="vLLM"
            )
        return self._served

    def _attach(self, served: Served, required: bool) -> None:
        """Bind the plans to vLLM's KV cache, once it is there, which is before the first step."""
        from glmc_engines.vllm.backend import kv_tensors

        caches = [cache for layer in self._layers if (cache := compat.cache_of(layer)) is not None]
        if len(caches) != len(self._layers):
            if not required:
                return
            raise EngineVersionError(
                "a step of vLLM has come before the KV cache of all layers",
                place="vLLM",
                expected=f"{len(self._layers)} layers with a KV cache",
                found=str(len(caches)),
            )
        kv: KVTensors = kv_tensors(caches, self._backend)
        served.attach(kv, capture=self._captures)

    def _nothing(self, positions: torch.Tensor) -> torch.Tensor:
        """Hidden states of a run without any metadata, which vLLM makes to see how much memory a
        model takes, and to warm up; nobody gets a token of it."""
        return torch.zeros(
            positions.shape[-1], self._hidden, dtype=self._dtype, device=positions.device
        )


def _refuse_lost_weights(model: Any, method: str, level: int) -> None:
    """Of a sleep of level 2 vLLM's own models wake with weights that are loaded once more, which
    those of a plan can't be: requests would be answered from memory that holds anything."""
    if isinstance(model, PlanForCausalLM) and (method != "sleep" or level >= 2):
        what = f"sleep of level {level}" if method == "sleep" else method
        raise UnsupportedError(
            "weights of a compiled plan that are thrown away can't be loaded again",
            place=f"vLLM, {what}",
            expected="sleep of level 1, which keeps them in host memory",
            found=what,
            remedy="POST /wake_up resumes the server; then sleep with level 1",
        )


class Glm4MoeForCausalLM(PlanForCausalLM):
    """GLM-4.5, 4.6 and 4.7."""


class Glm4ForCausalLM(PlanForCausalLM):
    """GLM-4 of 0414."""


class GlmForCausalLM(PlanForCausalLM):
    """GLM-4-9B in the format of transformers."""


CLASSES: dict[str, type[PlanForCausalLM]] = {
    model.__name__: model for model in (Glm4MoeForCausalLM, Glm4ForCausalLM, GlmForCausalLM)
}
"""By architecture."""
