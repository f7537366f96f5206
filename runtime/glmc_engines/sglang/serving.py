"""An artifact behind a model class of SGLang's: loaded, bound to the pools, replayed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch

from glmc_engines.core.errors import EngineVersionError, UnsupportedError
from glmc_engines.core.served import Served
from glmc_engines.sglang import compat
from glmc_engines.sglang.artifact import Found
from glmc_engines.sglang.metrics import Metrics
from glmc_engines.sglang.step import Steps
from glmc_runtime import KVTensors

_LOG = logging.getLogger("glmc.engines")
_LAYOUT = "slots heads dim"


class Serving:
    """What a model class calls, once SGLang has come to loading weights."""

    def __init__(self, found: Found, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        ranks = compat.tensor_parallel()
        group = ranks.group if ranks.count > 1 else None
        self._served = Served.load(
            found.header, found.origin, rank=ranks.rank, process_group=group, tensors=weights
        )
        self._metrics = Metrics(self._served.counters)
        self._steps: Steps | None = None
        self._pools: compat.Pools | None = None
        _LOG.info(self._served.first_line(str(compat.option("served_model_name"))))
        for limit in found.limits:
            _LOG.info("glmc: %s", limit)

    def attach(self, pools: compat.Pools) -> None:
        """Bind the plans to the engine's pools, once these are there. SGLang makes a backend for
        prefill and one for decode where they are told apart: the second has the same pools."""
        if self._pools is not None and self._pools.same_as(pools):
            return
        if pools.layout != "nhd" or pools.kind != "MHATokenToKVPool":
            raise UnsupportedError(
                "compiled plans do not have this pool of keys and values",
                place="the KV pool of SGLang",
                expected="MHATokenToKVPool of layout nhd",
                found=f"{pools.kind} of layout {pools.layout}",
            )
        kv = KVTensors(pools.layers, _LAYOUT, pools.page_size)
        self._served.attach(kv, capture=compat.wants_graphs())
        self._steps = Steps(pools.req_to_token, pools.page_size, len(pools.req_to_token))
        self._pools = pools

    def hidden(self, token_ids: torch.Tensor, positions: torch.Tensor, batch: Any) -> torch.Tensor:
        """The hidden states of a batch's tokens: one replay."""
        if self._steps is None:
            raise EngineVersionError(
                "SGLang has made no attention backend of ours beside the model, so that plans have "
                "no KV pool",
                place=f"--attention-backend {compat.attention_backend()}",
                remedy="start the server with an attention backend of SGLang's own",
            )
        step = self._steps.of(batch, token_ids, positions)
        with self._metrics.lock:
            hidden = self._served.forward(step)
        self._metrics.changed()
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of rows of hidden states, whole on each rank."""
        return self._served.logits(hidden)
