"""Tiny models of Hugging Face, and a sink that keeps all it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glmc.check.align.eager_model import load_eager
from glmc_runtime.format.tensor_key import TensorKey
from glmc_runtime.record.sink import Part
from tests.support.checkpoints import drawn_checkpoint, tiny_file


@dataclass
class ListSink:
    """What was written, by step and key, and the names of links."""

    tensors: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    facts: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    links: dict[tuple[int, str], tuple[int, str]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    lengths: list[tuple[int, ...]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    def begin(self, step: int, lengths: Sequence[int]) -> None:
        assert step == len(self.lengths)
        self.lengths.append(tuple(lengths))

    @property
    def step(self) -> int:
        return len(self.lengths) - 1

    def write(
        self,
        keys: Sequence[TensorKey],
        tensor: Tensor,
        facts: Mapping[str, Any],
        part: Part | None = None,
    ) -> None:
        (name,) = map(str, keys)
        place = (self.step, name)
        if part is not None and part.begin:
            tensor = torch.cat([self.tensors[place], tensor], part.axis)
        else:
            assert place not in self.tensors | self.links, place
            self.order.append(name)
        self.tensors[place] = tensor.clone()
        self.facts[place] = dict(facts)

    def link(self, key: TensorKey, step: int, written: TensorKey) -> None:
        self.links[self.step, str(key)] = (step, str(written))
        self.order.append(str(key))

    def describe(self, facts: Mapping[str, Any]) -> None:
        self.about.update(facts)

    def get(self, step: int, name: str) -> Tensor:
        """A tensor by any of its names."""
        return self.tensors[self.links.get((step, name), (step, name))]

    def names(self, step: int) -> list[str]:
        """All names of a step."""
        return [name for at, name in (*self.tensors, *self.links) if at == step]


@pytest.fixture
def sink() -> ListSink:
    return ListSink()


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A random checkpoint of the family of GLM-4.7, with changed fields."""

    def make(preset: str = "glm-4.7", **fields: Any) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        return drawn_checkpoint(folder, tiny_file(preset, **fields))

    return make


@pytest.fixture(scope="session")
def moe(checkpoint_of: Callable[..., Path]) -> Path:
    return checkpoint_of()


@pytest.fixture(scope="session")
def moe_model(moe: Path) -> Any:
    return load_eager(moe, "float32")
