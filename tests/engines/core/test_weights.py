"""What an engine's loader hands over becomes the weights of an artifact without any."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from glmc_engines.core.header import Header
from glmc_engines.core.weights import load_model, random_tensors, wants_tensors
from glmc_runtime.errors import WeightsError
from tests.artifact import toy
from tests.runtime.toy import write_toy


@pytest.fixture
def header(tmp_path: Path) -> Header:
    parts = toy.parts(guards=toy.Guards("0.1.0", "2.5", "cpu"))
    toy.write(tmp_path / "handed", toy.ToyHandedOver(), parts=parts)
    return Header.of(tmp_path / "handed")


def test_tensors_of_the_loader(header: Header) -> None:
    tensors = toy.ToyWeights().tensors
    assert wants_tensors(header)
    model, names = load_model(header, iter(tensors.items()))
    assert names == set(tensors) and model.max_tokens > 0
    with pytest.raises(WeightsError, match="no q"):
        load_model(header, [(name, tensor) for name, tensor in tensors.items() if name != "q"])


def test_an_artifact_with_weights_reads_nothing(tmp_path: Path) -> None:
    def loader() -> Iterator[tuple[str, torch.Tensor]]:
        raise AssertionError("the checkpoint was read")
        yield

    header = Header.of(write_toy(tmp_path / "toy"))
    assert not wants_tensors(header)
    assert load_model(header, loader())[1] == set()


def test_no_checkpoint(header: Header) -> None:
    """Random numbers, the same in each process."""
    first, second = dict(random_tensors(header)), dict(random_tensors(header))
    assert first.keys() == toy.ToyWeights().tensors.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert load_model(header, None)[1] == set(first)
