"""The attention backend of our models: it has the pools, and computes nothing.

SGLang builds one after its pools are there, which is when a model of ours is bound to them. Its
metadata is not made: a step takes what it needs from the batch (:mod:`.step`).
"""

from __future__ import annotations

from typing import Any

from sglang.srt.layers.attention.base_attn_backend import AttentionBackend

from glmc_engines.sglang.compat import Pools
from glmc_engines.surface.uses import Use

SURFACE: tuple[Use, ...] = (
    Use(
        "sglang.srt.layers.attention.base_attn_backend.AttentionBackend.init_forward_metadata",
        "method",
        ("forward_batch",),
        "called before each step",
        override=True,
    ),
    Use(
        "sglang.srt.layers.attention.base_attn_backend.AttentionBackend"
        ".get_cuda_graph_seq_len_fill_value",
        "method",
        (),
        "called at the start",
        override=True,
    ),
)


class ReplayBackend(AttentionBackend):  # type: ignore[misc]
    """Stands where SGLang asks for an attention backend beside a model of ours."""

    def __init__(self, runner: Any) -> None:
        super().__init__()
        # Read by name: SGLang finds the pools of a forward through its backend.
        self.req_to_token_pool = runner.req_to_token_pool
        self.token_to_kv_pool = runner.token_to_kv_pool
        runner.model.attach(Pools.of(runner))

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Nothing: no kernel of SGLang's reads metadata."""

    def get_cuda_graph_seq_len_fill_value(self) -> int:
        return 1
