"""SGLang's batch as a step of the runtime: its own tensors, and the pages of its requests.

A request's tokens have places in the pool of keys and values, a row of ``req_to_token`` for each
request. Pages are ``page_size`` places that follow each other and begin at a multiple of it, so
every ``page_size``-th number of a row names a block.
"""

from __future__ import annotations

from typing import Any

import torch

from glmc_engines.surface.uses import Use
from glmc_runtime import OuterStep

SURFACE: tuple[Use, ...] = (
    Use(
        "sglang.srt.model_executor.forward_batch_info.ForwardMode.is_decode",
        "method",
        (),
        "one token of each request",
    ),
    Use(
        "sglang.srt.model_executor.forward_batch_info.ForwardBatch.batch_size",
        "attribute",
        why="how many requests a batch has",
    ),
    Use(
        "sglang.srt.model_executor.forward_batch_info.ForwardBatch.req_pool_indices",
        "attribute",
        why="rows of the pool of requests",
    ),
    Use(
        "sglang.srt.model_executor.forward_batch_info.ForwardBatch.out_cache_loc",
        "attribute",
        why="where keys and values go",
    ),
    Use(
        "sglang.srt.model_executor.forward_batch_info.ForwardBatch.seq_lens",
        "attribute",
        why="tokens of each request after the step",
    ),
    Use(
        "sglang.srt.model_executor.forward_batch_info.ForwardBatch.seq_lens_cpu",
        "attribute",
        why="the same in host memory",
    ),
    Use(
        "sglang.srt.model_executor.forward_batch_info.ForwardBatch.extend_seq_lens_cpu",
        "attribute",
        why="new tokens of each request",
    ),
)


class Steps:
    """Makes steps of batches, over one pool of requests."""

    def __init__(self, req_to_token: torch.Tensor, page_size: int, max_sequences: int) -> None:
        self._req_to_token = req_to_token
        self._page_size = page_size
        self._ends = torch.arange(max_sequences + 1, dtype=torch.int32, device=req_to_token.device)
        self._ends_host = torch.arange(max_sequences + 1, dtype=torch.int32)

    def of(self, batch: Any, token_ids: torch.Tensor, positions: torch.Tensor) -> OuterStep:
        """The step of a batch that extends or decodes; a mixed batch is one that extends."""
        sequences = int(batch.batch_size)
        tokens = int(token_ids.shape[0])
        lengths_host: torch.Tensor | None = batch.seq_lens_cpu
        if batch.forward_mode.is_decode():
            ends, ends_host, longest = self._ends, self._ends_host, 1
        else:
            queries = batch.extend_seq_lens_cpu
            ends_host = torch.zeros(sequences + 1, dtype=torch.int32)
            torch.cumsum(torch.tensor(queries, dtype=torch.int32), 0, out=ends_host[1:])
            ends = ends_host.to(self._req_to_token.device, non_blocking=True)
            longest = max(queries)
        return OuterStep(
            token_ids=token_ids,
            positions=positions,
            slot_mapping=batch.out_cache_loc,
            block_tables=self._pages(batch.req_pool_indices, lengths_host),
            context_lengths=batch.seq_lens,
            cu_seqlens_q=ends,
            tokens=tokens,
            sequences=sequences,
            longest_query=longest,
            context_lengths_host=lengths_host,
            cu_seqlens_q_host=ends_host,
        )

    def _pages(self, rows: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """The blocks of each request, as many as the longest one has."""
        longest = self._req_to_token.shape[1] if lengths is None else int(lengths.max())
        first = self._req_to_token[:, : longest : self._page_size]
        pages = first.index_select(0, rows)
        return pages if self._page_size == 1 else pages.div_(self._page_size, rounding_mode="floor")
