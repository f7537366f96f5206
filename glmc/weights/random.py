"""Random weights with the interface of a checkpoint: the same for a name and seed, anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from math import prod

import torch
from torch import Tensor

from glmc.errors import CheckpointError
from glmc.presets.fields import ModelFields
from glmc.presets.parameters import CORRECTION_BIAS, parameter_shapes
from glmc.weights.layout import expert_parts

# Values are drawn in blocks of this many elements, each from its own generator, so that any range
# can be read without the ones before it.
BLOCK = 1 << 20
INITIALIZER_RANGE = 0.02


class RandomWeights:
    """A :class:`~glmc.weights.source.WeightSource` of normal numbers.

    Matrices and biases have the standard deviation 0.02 of the published ``initializer_range``;
    norms are 1; the gate's is 1 / sqrt(hidden), so that logits of a normalised input spread over
    about one unit and the choice of experts varies; its correction bias has 0.05.
    """

    def __init__(self, fields: ModelFields, dtype: torch.dtype, seed: int = 0) -> None:
        self._shapes: Mapping[str, tuple[int, ...]] = parameter_shapes(fields)
        self._dtype = dtype
        self._seed = seed
        self._hidden = fields.hidden_size
        self._aliases: dict[str, tuple[str, int, tuple[int, ...]]] = {}
        if fields.tie_word_embeddings:
            embedding = "model.embed_tokens.weight"
            self._aliases["lm_head.weight"] = (embedding, 0, self._shapes[embedding])
        for name, shape in self._shapes.items():
            begin = 0
            for part, size in expert_parts(name, shape):
                if part != name:
                    self._aliases[part] = (name, begin, size)
                begin += prod(size)

    @property
    def description(self) -> str:
        return f"random weights, seed {self._seed}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._resolve(name)[2]

    def dtype(self, name: str) -> torch.dtype:
        self._resolve(name)
        return torch.float32 if name.endswith(CORRECTION_BIAS) else self._dtype

    def read(self, name: str, begin: int, count: int) -> Tensor:
        base, offset, _ = self._resolve(name)
        result = torch.empty(count, dtype=self.dtype(name))
        if base.endswith("norm.weight"):
            return result.fill_(1.0)
        deviation, first = self._deviation(base), begin + offset

        def fill(block: int) -> None:
            values = torch.empty(BLOCK).normal_(0.0, deviation, generator=self._draw(base, block))
            low, high = max(first, block * BLOCK), min(first + count, (block + 1) * BLOCK)
            result[low - first : high - first] = values[low - block * BLOCK : high - block * BLOCK]

        blocks = range(first // BLOCK, -(-(first + count) // BLOCK))
        # Drawing is serial in torch; blocks are independent and drawn without the interpreter lock.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(fill, blocks))
        return result

    def _resolve(self, name: str) -> tuple[str, int, tuple[int, ...]]:
        if name in self._shapes:
            return name, 0, self._shapes[name]
        if name not in self._aliases:
            raise CheckpointError(
                f"the model has no parameter '{name}'", expected="a name of the module's state"
            )
        return self._aliases[name]

    def _deviation(self, name: str) -> float:
        if name.endswith(CORRECTION_BIAS):
            return 0.05
        if name.endswith(".mlp.gate.weight"):
            return float(self._hidden**-0.5)
        return INITIALIZER_RANGE

    def _draw(self, name: str, block: int) -> torch.Generator:
        digest = hashlib.sha256(f"{self._seed}/{name}/{block}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
