"""An artifact in one process of a serving engine: loaded, attached to its KV cache, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from glmc_engines.core.counters import Counters
from glmc_engines.core.errors import EngineVersionError
from glmc_engines.core.header import Header
from glmc_engines.core.weights import Pairs, load_model
from glmc_runtime import AttachedModel, KVTensors, Model, OuterStep


class Served:
    """What an adapter's model class calls. A step of the engine is one replay; ``counters`` has
    both, steps as they come here and replays as the runtime has counted them."""

    def __init__(self, model: Model, header: Header, origin: str, counters: Counters) -> None:
        self.model = model
        self.header = header
        self.origin = origin
        self.counters = counters
        self._attached: AttachedModel | None = None
        self._steps = self._tokens = 0
        self._count_steps = counters.setter("steps")
        self._count_tokens = counters.setter("tokens")
        self._count_replays: dict[tuple[str, int], Callable[[int], None]] = {}

    @classmethod
    def load(
        cls,
        header: Header,
        origin: str,
        *,
        rank: int = 0,
        process_group: Any = None,
        tensors: Pairs | None = None,
        device: str = "cpu",
    ) -> Served:
        """Load an artifact; ``origin`` says where it came from, for the log. ``rank`` is that of
        this process in its server. With a ``process_group`` of the engine it is one of the ranks of
        an artifact of several. ``tensors`` are what the engine's loader reads of the checkpoint,
        for an artifact that has no weights of its own (:mod:`glmc_engines.core.weights`);
        ``device`` is what the engine computes on."""
        with plain_defaults():
            model, _ = load_model(header, tensors, device, process_group=process_group)
        counters = Counters.of_rank(rank)
        manifest = header.manifest
        counters.set("serves", 1, target=manifest.target, dtype=manifest.dtype, origin=origin)
        return cls(model, header, origin, counters)

    @property
    def attached(self) -> bool:
        """Whether there is a KV cache."""
        return self._attached is not None

    @property
    def needs_host_lengths(self) -> bool:
        """Whether steps bring their lengths in host memory, too."""
        return self._attached is not None and self._attached.needs_host_lengths

    def attach(self, kv: KVTensors, *, capture: bool = True) -> None:
        """Bind the plans to the engine's KV cache; again for another one. Without ``capture`` the
        runtime has no device graphs either, as the engine was told to have none."""
        with plain_defaults():
            self._attached = self.model.attach(kv, capture=capture)

    def first_line(self, name: str) -> str:
        """What serves the model ``name``, in one line for the log."""
        rank = self.counters.rank % self.header.manifest.ranks.count
        return self.header.first_line(name, self.origin, self.model.emulated, rank)

    def forward(self, step: OuterStep, *, own: bool = True) -> torch.Tensor:
        """Hidden states of the tokens of a step, [tokens, hidden size]; ``own`` as for
        :meth:`AttachedModel.forward`."""
        attached = self._to_cache()
        self._steps += 1
        self._count_steps(self._steps)
        hidden = attached.forward(step, own=own)
        self._tokens += step.tokens
        self._count_tokens(self._tokens)
        statistics = self.model.statistics
        key = statistics.last
        if key is not None:
            count = self._count_replays.get(key)
            if count is None:
                labels = {"phase": key[0], "bucket": str(key[1])}
                count = self._count_replays[key] = self.counters.setter("replays", **labels)
            count(statistics.buckets[key].steps)
        return hidden

    def logits(self, hidden: torch.Tensor, *, own: bool = True) -> torch.Tensor:
        """Logits of rows of hidden states, [rows, vocabulary]; ``own`` as for
        :meth:`AttachedModel.logits`."""
        return self._to_cache().logits(hidden, own=own)

    def _to_cache(self) -> AttachedModel:
        if self._attached is None:
            raise EngineVersionError(
                "the engine asks for a step before the plans have its KV cache",
                place=self.header.manifest.model.name,
            )
        return self._attached


@contextmanager
def plain_defaults() -> Iterator[None]:
    """Without the default dtype and device that an engine sets while it builds a model."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
