"""What an artifact says of tensors that an engine hands over is checked whole."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import pytest
import torch

from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.engine_weights import (
    FROM_ENGINE,
    engine_weights_from_json,
    engine_weights_to_json,
    window_of,
)
from glmc_runtime.format.manifest import Manifest, Ranks, WeightEntry
from glmc_runtime.loading.loader import load_artifact
from tests.runtime.toy import write_toy

Edit = Callable[[dict[str, Any]], object]
DATA: dict[str, Any] = {
    "schema_version": 1,
    "prefix": "model.",
    "parameters": {
        "model.experts": {"shape": [2, 4, 3], "exact": False},
        "model.embedding": {"shape": [5, 3], "exact": True},
    },
    "names": {
        "model.experts.0.gate": ["model.experts", 0, [2, 3]],
        "model.experts.0.up": ["model.experts", 6, [2, 3]],
        "model.experts.1.gate": ["model.experts", 12, [2, 3]],
        "model.experts.1.up": ["model.experts", 18, [2, 3]],
        "head": ["model.embedding", 0, [5, 3]],
    },
    "skipped": {"endings": ["inv_freq"], "modules": {"model.layers.": 4}},
    "weights": {
        "up": {
            "chosen": {"elements": [["model.experts", 0, 24]], "shape": [2, 4, 3]},
            "axis": 1,
            "runs": [[[0, 2]], [[2, 2]]],
        },
        "embedding": {"elements": [["model.embedding", 0, 15]], "shape": [5, 3]},
    },
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    toy = load_artifact(write_toy(tmp_path_factory.mktemp("toy") / "a")).manifest
    entries = {
        "up": WeightEntry((FROM_ENGINE,) * 2, "float32", (2, 2, 3)),
        "embedding": WeightEntry((FROM_ENGINE,) * 2, "float32", (5, 3)),
    }
    return replace(toy, weights=entries, ranks=Ranks(2))


def test_it_comes_back(manifest: Manifest) -> None:
    found = engine_weights_from_json(copy.deepcopy(DATA), manifest)
    again = engine_weights_from_json(engine_weights_to_json(found), manifest)
    assert again == found
    assert found.weights["up"].shape == (2, 2, 3)


def test_names_of_parameters_and_of_their_parts(manifest: Manifest) -> None:
    found = engine_weights_from_json(copy.deepcopy(DATA), manifest)
    for name in ("model.experts.1.gate", "experts.1.gate"):
        part = found.part(name)
        assert part is not None and (part.parameter, part.first) == ("model.experts", 12)
    whole = found.part("embedding")
    assert whole is not None and whole.shape == (5, 3) and found.part("head") == whole
    assert found.part("model.experts.2.gate") is None


def test_what_is_left_out(manifest: Manifest) -> None:
    found = engine_weights_from_json(copy.deepcopy(DATA), manifest)
    for name in ("model.layers.4.norm", "model.layers.12.x", "layers.4.x", "a.rope.inv_freq"):
        assert found.skips(name), name
    for name in ("model.layers.3.norm", "model.layers.x.norm", "model.experts", "layers"):
        assert not found.skips(name), name


def test_a_window_is_the_elements_that_it_is_said_to_be() -> None:
    """Each stretch of some tensor, as a tensor of each shape, against indices of elements."""
    for whole in ((2, 3, 2), (4, 1, 3), (5,), (1, 1)):
        indices = torch.arange(prod(whole)).view(whole)
        for rank in range(len(whole) + 1):
            for shape in itertools.product(range(1, 5), repeat=rank):
                for first in range(prod(whole)):
                    window = window_of(whole, first, shape)
                    wanted = torch.arange(first, first + prod(shape)).view(shape)
                    if window is None:
                        continue
                    found = indices
                    for axis, (start, length) in enumerate(window):
                        found = found.narrow(axis, start, length)
                    assert torch.equal(found.reshape(shape), wanted), (whole, first, shape)
    assert window_of((2, 4, 3), 12, (2, 3)) == ((1, 1), (0, 2), (0, 3))
    assert window_of((2, 4, 3), 18, (2, 3)) == ((1, 1), (2, 2), (0, 3))
    assert window_of((), 0, ()) == ()
    assert window_of((2, 4), 2, (4,)) is None  # across two rows
    assert window_of((2, 4), 4, (2, 4)) is None  # beyond the end


def at(path: str, value: Any) -> Edit:
    def edit(data: dict[str, Any]) -> None:
        *keys, last = path.split("/")
        for key in keys:
            data = data[key]
        data[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (at("schema_version", 2), "schema_version is 2"),
        (lambda data: data.pop("names"), "KeyError"),
        (at("prefix", 1), "prefix is 1"),
        (at("parameters/model.embedding/exact", 1), r"parameters.*exact is 1"),
        (at("parameters/model.embedding/shape", [-5, 3]), r"shape is \[-5, 3\]"),
        (at("names/head", ["nothing", 0, [5, 3]]), "no part of 'nothing'"),
        (at("names/head", ["model.embedding", 1, [5, 3]]), r"names.head is no part of"),
        (at("names/model.experts.0.up", ["model.experts", 3, [2, 3]]), "overlaps another part"),
        (at("skipped/endings", [1]), "endings"),
        (at("skipped/modules", {"a": "b"}), "modules"),
        (at("weights/embedding/elements", [["model.embedding", 0, 16]]), "has elements that"),
        (
            at(
                "weights/embedding/elements",
                [["model.embedding", 3, 12], ["model.embedding", 0, 3]],
            ),
            "no part of one parameter",
        ),
        (lambda data: data["weights"].pop("up"), "not those of the manifest: up"),
        (at("weights/embedding/shape", [3, 5]), "embedding"),
    ],
)
def test_damage_is_refused(manifest: Manifest, edit: Edit, reason: str) -> None:
    data = copy.deepcopy(DATA)
    edit(data)
    with pytest.raises(ArtifactError, match=f"from-engine.json is not well formed.*{reason}"):
        engine_weights_from_json(data, manifest)
    for nothing in (None, [], {"schema_version": 1}):
        with pytest.raises(ArtifactError):
            engine_weights_from_json(nothing, manifest)
