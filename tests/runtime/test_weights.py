"""Weights that the caller gives: shared and not copied, and checked as those of the artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import glmc_runtime
from glmc_runtime.errors import ArtifactError
from glmc_runtime.loader import load_artifact
from glmc_runtime.weights import load_weights
from tests.runtime.toy import reference_greedy

Weights = dict[str, torch.Tensor]
CPU = torch.device("cpu")


@pytest.fixture
def own(toy_path: Path) -> Weights:
    loaded = load_weights(toy_path, load_artifact(toy_path).manifest, CPU)
    return {name: tensor.clone() for name, tensor in loaded.items()}


def test_the_given_tensors_are_those_that_are_read(toy_path: Path, own: Weights) -> None:
    session = glmc_runtime.load(toy_path, weights=own)
    (first,) = session.generate([[3, 14, 15]], max_new_tokens=6, ignore_eos=True)
    assert first.tokens == reference_greedy([3, 14, 15], 6)
    for tensor in own.values():
        tensor.zero_()
    (second,) = session.generate([[3, 14, 15]], max_new_tokens=6, ignore_eos=True)
    assert second.tokens == [0] * 6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda own, name: own.pop(name), "weights are missing"),
        (lambda own, name: own.update({name: own[name].double()}), "is not what the manifest says"),
        (lambda own, name: own.update({name: own[name][:1]}), "is not what the manifest says"),
        (lambda own, name: own.update({name: own[name].t()}), "can't be used where it lies"),
        (lambda own, name: own.update({name: own[name].to("meta")}), "can't be used where it lies"),
    ],
)
def test_refuses(
    toy_path: Path, own: Weights, change: Callable[[Weights, str], object], reason: str
) -> None:
    name = next(name for name, tensor in own.items() if tensor.dim() == 2)
    change(own, name)
    with pytest.raises(ArtifactError, match=reason):
        glmc_runtime.load(toy_path, weights=own)
