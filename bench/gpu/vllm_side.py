"""vLLM as a peer of the benchmark: a process of its own, over a folder of unpacked wheels.

``GLMC_PEER_SITE`` names the folder, which is first on that process's path. The engine, its own CUDA
graphs and ``torch.compile`` are as they come; weights are random and of the spread of ours.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bench.engines.sides import (
    ENGINE,
    engine_environment,
    engine_options,
    most_sequences,
    write_checkpoint,
)
from bench.models import BenchModel
from bench.processes import Running, start
from bench.spread import BIAS
from glmc_runtime.engine.loaded import CAPTURED_TOKENS

VLLM = "vllm"
SITE = "GLMC_PEER_SITE"
RAGGED = 16  # prompts of 100 to 1000 tokens in one step
LONG_BATCH = 16  # sequences of each long context


@dataclass(frozen=True)
class Sizes:
    """What is measured: decode steps by batch, first tokens by length, ``rounds`` that count;
    ``longs``: contexts of decode steps of ``LONG_BATCH`` sequences."""

    batches: tuple[int, ...]
    prefills: tuple[int, ...]
    context: int
    rounds: int = 5
    steps: int = 48
    shortest: int = 100
    longest: int = 1000
    longs: tuple[int, ...] = ()

    @property
    def ragged(self) -> tuple[int, ...]:
        """The lengths of the prompts that come together."""
        draw = random.Random(1)
        return tuple(draw.randint(self.shortest, self.longest) for _ in range(RAGGED))

    @property
    def captured(self) -> tuple[int, ...]:
        """The lengths of prefill that are measured with device graphs of ours and without."""
        return tuple(tokens for tokens in self.prefills if tokens <= CAPTURED_TOKENS)

    @property
    def most_tokens(self) -> int:
        """Of a step."""
        return max(*self.prefills, sum(self.ragged), *self.batches)

    @property
    def kv_tokens(self) -> int:
        """What a cache must hold: prompts of the largest batch, and those of one more prefill."""
        return self._kv_tokens(max(self.batches), self.context)

    @property
    def long_kv_tokens(self) -> int:
        """The same of the long contexts."""
        return self._kv_tokens(LONG_BATCH, max(self.longs, default=0))

    def _kv_tokens(self, batch: int, context: int) -> int:
        return batch * (context + self.steps + 64) + self.most_tokens


def site() -> str | None:
    """The folder of the peer's packages that this process was told."""
    return os.environ.get("GLMC_PEER_SITE") or None


def lacking(folder: str | None) -> str | None:
    """Why there is no peer, and how to get one; None where there is."""
    if folder is not None and (Path(folder) / "vllm").is_dir():
        return None
    where = f"{SITE} is not set" if folder is None else f"{folder} has no folder vllm"
    return (
        f"{where}: unpack the wheels of vllm and of what this machine lacks into one folder, "
        "pip install --target FOLDER --no-deps, and name it"
    )


@contextmanager
def vllm_side(
    model: BenchModel,
    sizes: Sizes,
    folder: Path,
    log: Path,
    quick: bool,
    more: Mapping[str, object] = MappingProxyType({}),
    bias: float = BIAS,
) -> Iterator[Running]:
    """vLLM over a config alone, which ``folder`` is for, with weights of a useful spread, that of
    biases ``bias``, and ``more`` options of its ``LLM``. What it prints is in ``log``."""
    kv_tokens = max(sizes.kv_tokens, sizes.long_kv_tokens)
    options = {
        **engine_options(
            write_checkpoint(model.config, folder / "peer"),
            quick,
            longest=max((sizes.context, *sizes.longs)) + max(*sizes.prefills, 1024),
            sequences=most_sequences(sizes.batches),
            tokens=sizes.most_tokens,
            cache_bytes=int(kv_tokens * model.token_bytes * 1.1) + (1 << 26),
        ),
        "vocabulary": int(model.config["vocab_size"]),
        **more,
    }
    environment = engine_environment("glmc_cpu")  # which a machine without a GPU needs
    paths = filter(None, (site(), environment.get("PYTHONPATH")))
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    with tempfile.TemporaryDirectory() as sockets, log.open("wb") as file:
        side = start(ENGINE, "bench.engines.side", Path(sockets), environment, file)
        try:
            side.connection.send(options)
            side.wait()
            side.ask("spread", bias=bias)
            yield side
        finally:
            side.end()
