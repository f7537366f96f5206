"""Weights made of tensors that an engine hands over have the bytes of packed ones, on each rank."""

from __future__ import annotations

import json
import random
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import glmc_runtime
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc.errors import UsageError
from glmc_runtime.errors import ArtifactError, RequestError, WeightsError
from glmc_runtime.format.engine_weights import FROM_ENGINE
from glmc_runtime.loading import from_engine
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.loading.weights import load_weights
from tests.docs.markdown import ROOT
from tests.support.checkpoints import drawn_checkpoint, tiny_checkpoint, tiny_file
from tests.support.thinned import thinned

pytestmark = pytest.mark.usefixtures("shared_captures")
CPU = torch.device("cpu")
Tensors = dict[str, Tensor]
OPTIONS = CompileOptions(max_context=64, prefill_buckets=(16,), decode_buckets=(1, 2))


def tied_checkpoint(directory: Path) -> Path:
    config = tiny_file("glm-4-9b-0414", tie_word_embeddings=True)
    drawn_checkpoint(directory, config)
    return directory


MODELS: dict[str, Callable[[Path], Path]] = {
    "tied": tied_checkpoint,
    "tiny-dense": lambda path: ROOT / "models" / "tiny-dense",
    "tiny-moe": lambda path: ROOT / "models" / "tiny-moe",
}


def tensors_of(checkpoint: Path) -> Tensors:
    return {
        name: tensor
        for file in sorted(checkpoint.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def config_alone(checkpoint: Path, directory: Path) -> Path:
    directory.mkdir()
    shutil.copy(checkpoint / "config.json", directory)
    return directory


def shuffled(tensors: Tensors, seed: int) -> list[tuple[str, Tensor]]:
    pairs = list(tensors.items())
    random.Random(seed).shuffle(pairs)
    return pairs


def made(path: Path, pairs: Any, rank: int = 0) -> Tensors:
    return load_weights(load_artifact(path, rank=rank), CPU, handed=pairs)


def require_equal(one: Tensors, other: Tensors) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype is other[name].dtype
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize(
    ("model", "ranks"),
    thinned(
        product(MODELS, (1, 2)),
        long=[("tied", 1), ("tied", 2), ("tiny-dense", 1), ("tiny-dense", 2), ("tiny-moe", 1)],
    ),
)
def test_each_rank_makes_what_is_packed(tmp_path: Path, model: str, ranks: int) -> None:
    """In any order; the compile has seen config.json and nothing else."""
    checkpoint = MODELS[model](tmp_path / "model")
    options = replace(OPTIONS, tensor_parallel=ranks, dtype="bfloat16")
    compile_model(checkpoint, tmp_path / "packed", options)
    alone = config_alone(checkpoint, tmp_path / "alone")
    compile_model(alone, tmp_path / "made", replace(options, weights="from-engine"))
    tensors = tensors_of(checkpoint)
    for rank in range(ranks):
        packed = load_weights(load_artifact(tmp_path / "packed", rank=rank), CPU)
        require_equal(packed, made(tmp_path / "made", shuffled(tensors, rank), rank))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    """An artifact for float16 of a mixture in bfloat16, and the tensors of the checkpoint."""
    root = tmp_path_factory.mktemp("mixture")
    checkpoint = tiny_checkpoint(root / "model", "glm-4.5")
    alone = config_alone(checkpoint, root / "alone")
    compile_model(alone, root / "made", replace(OPTIONS, weights="from-engine"))
    return root / "made", tensors_of(checkpoint)


@pytest.mark.long
def test_the_same_input_makes_the_same_artifact(
    mixture: tuple[Path, Tensors], tmp_path: Path
) -> None:
    path, _ = mixture
    compile_model(path.parent / "alone", tmp_path / "made", replace(OPTIONS, weights="from-engine"))
    for name in ("manifest.json", FROM_ENGINE):
        assert (tmp_path / "made" / name).read_bytes() == (path / name).read_bytes()
    assert [each.name for each in (path / "weights").glob("*.safetensors")]  # the table of rope


def test_a_tensor_is_not_kept(mixture: tuple[Path, Tensors]) -> None:
    """No more than one of what the loader reads is there at a time."""
    path, tensors = mixture
    alive: list[Any] = []

    def loader() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors.items():
            assert all(each() is None for each in alive[:-1])
            copy = tensor.clone()
            alive.append(weakref.ref(copy))
            yield name, copy
            del copy

    weights = made(path, loader())
    assert alive and all(each() is None for each in alive)
    assert sum(each.nbytes for each in weights.values()) > 0


def other_names(tensors: Tensors) -> Tensors:
    """The same tensors as other programs save them: experts stacked, the trunk alone, besides what
    belongs to no layer that is computed."""
    found: Tensors = {}
    experts: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        prefix, expert, last = name.partition(".mlp.experts.")
        if not expert:
            found[name.removeprefix("model.")] = tensor
            continue
        stacked = "down_proj" if last.endswith("down_proj.weight") else "gate_up_proj"
        experts.setdefault(f"{prefix}.mlp.experts.{stacked}", []).append(tensor)
    count = len(next(each for name, each in experts.items() if name.endswith("down_proj")))
    for name, parts in experts.items():
        sizes = (count, -1, parts[0].shape[1])
        found[name] = torch.cat(parts).view(sizes)
    found["model.layers.3.eh_proj.weight"] = torch.ones(2)
    found["model.layers.17.mlp.experts.0.up_proj.weight_scale"] = torch.ones(2)
    found["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    return found


def in_order(tensors: Tensors) -> Tensors:
    """Experts by number, and of each the gate before the up projection."""
    return dict(
        sorted(
            tensors.items(),
            key=lambda item: [int(p) if p.isdecimal() else 0 for p in item[0].split(".")],
        )
    )


def test_other_names_of_a_checkpoint(mixture: tuple[Path, Tensors]) -> None:
    path, tensors = mixture
    renamed = other_names(in_order(dict(sorted(tensors.items()))))
    require_equal(made(path, tensors.items()), made(path, renamed.items()))


def test_a_router_is_not_rounded(tmp_path: Path) -> None:
    """Where config.json says that the checkpoint is in float32, routers stay in float32."""
    config = tiny_file("glm-4.5", dtype="float32")
    drawn_checkpoint(tmp_path / "model", config)
    options = replace(OPTIONS, dtype="bfloat16")
    compile_model(tmp_path / "model", tmp_path / "packed", options)
    compile_model(tmp_path / "model", tmp_path / "made", replace(options, weights="from-engine"))
    packed = load_weights(load_artifact(tmp_path / "packed"), CPU)
    require_equal(packed, made(tmp_path / "made", tensors_of(tmp_path / "model").items()))
    assert {each.dtype for each in packed.values()} == {torch.bfloat16, torch.float32}


ROUTER = "model.layers.1.mlp.gate.weight"
UP = "model.layers.2.mlp.experts.3.up_proj.weight"


def put(name: str, edit: Callable[[Tensor], Tensor]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: edit(tensors[name])})


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda t: t.pop(UP), rf"tensors .* missing[\s\S]*no {UP}\n"),
        (lambda t: [t.pop(name) for name in list(t) if ".experts." in name], "and 31 more"),
        (lambda t: t.pop("model.norm.weight"), r"no model\.norm\.weight"),
        (
            lambda t: t.update({"model.layers.1.x": torch.ones(1)}),
            r"no tensor 'model\.layers\.1\.x",
        ),
        (put(UP, lambda t: t.T.contiguous()), rf"'{UP}' is another one[\s\S]*\[24, 32\]"),
        (put(UP, lambda t: t.to(torch.float8_e4m3fn)), rf"'{UP}' is another[\s\S]*float8"),
        (put(ROUTER, lambda t: t.float() + 1e-9), rf"'{ROUTER}' would be rounded"),
        (
            lambda t: t.update({"embed_tokens.weight": t["model.embed_tokens.weight"] + 1}),
            "'embed_tokens.weight' is there twice",
        ),
        (
            lambda t: t.update({"model.layers.1.mlp.experts.down_proj": torch.ones(6, 32, 24)}),
            "handed over in parts before",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    mixture: tuple[Path, Tensors], edit: Callable[[Tensors], object], reason: str
) -> None:
    path, tensors = mixture
    changed = dict(tensors)
    edit(changed)
    with pytest.raises(WeightsError, match=reason):
        made(path, changed.items())


@pytest.mark.long
def test_values_that_float16_does_not_have(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "model", "glm-4-9b-0414")
    options = replace(OPTIONS, dtype="float16", weights="from-engine")
    compile_model(checkpoint, tmp_path / "made", options)
    tensors = tensors_of(checkpoint)
    tensors["model.norm.weight"][3] = 1e6
    with pytest.raises(WeightsError, match=r"'model\.norm\.weight' are too large[\s\S]*99"):
        made(tmp_path / "made", tensors.items())


def test_a_tied_head_may_be_there_and_is_the_same(tmp_path: Path) -> None:
    checkpoint = tied_checkpoint(tmp_path / "model")
    compile_model(checkpoint, tmp_path / "made", replace(OPTIONS, weights="from-engine"))
    tensors = tensors_of(checkpoint)
    embedding = tensors["model.embed_tokens.weight"]
    expected = made(tmp_path / "made", tensors.items())
    twice = {**tensors, "lm_head.weight": embedding}
    head = {"lm_head.weight" if tensor is embedding else n: tensor for n, tensor in tensors.items()}
    for given in (twice, head):
        require_equal(expected, made(tmp_path / "made", given.items()))
    with pytest.raises(WeightsError, match="with two contents"):
        made(tmp_path / "made", {**tensors, "lm_head.weight": embedding + 1}.items())


def test_under_inference_mode(mixture: tuple[Path, Tensors]) -> None:
    """Engines load models in the modes of torch that they serve in."""
    path, tensors = mixture
    expected = made(path, tensors.items())
    with torch.inference_mode():
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        weights = made(path, copies.items())
    require_equal(expected, weights)
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
    require_equal(expected, made(path, parameters.items()))


def test_load_model_takes_them(mixture: tuple[Path, Tensors]) -> None:
    path, tensors = mixture
    model = glmc_runtime.load_model(path, tensors=iter(tensors.items()))
    assert model.max_context == 64
    glmc_runtime.load_model(path, tensors=tensors)  # a mapping has pairs
    for call, words in (
        (lambda: glmc_runtime.load_model(path), "the loader of an engine hands over"),
        (lambda: glmc_runtime.load(path), "the loader of an engine hands over"),
    ):
        with pytest.raises(ArtifactError, match=words):
            call()
    with pytest.raises(RequestError, match="exclude each other"):
        glmc_runtime.load_model(path, tensors=tensors, weights=tensors)
    wrong: Any = 5
    with pytest.raises(RequestError, match="no pairs"):
        glmc_runtime.load_model(path, tensors=wrong)
    for pairs in ([("a", 1)], [(1, torch.ones(1))]):
        with pytest.raises(WeightsError, match="no named tensor"):
            glmc_runtime.load_model(path, tensors=pairs)  # type: ignore[arg-type]


def test_an_artifact_with_weights_takes_no_tensors(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "model", "glm-4-9b-0414")
    compile_model(checkpoint, tmp_path / "packed", OPTIONS)
    with pytest.raises(ArtifactError, match="has weights of its own"):
        glmc_runtime.load_model(tmp_path / "packed", tensors=[])


def test_memory_that_runs_out(
    mixture: tuple[Path, Tensors], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tensors = mixture

    def empty(*sizes: Any, **options: Any) -> Tensor:
        raise RuntimeError("out of memory: tried to allocate 1 GiB")

    monkeypatch.setattr(from_engine.torch, "empty", empty)
    with pytest.raises(glmc_runtime.GlmcError, match="do not fit into memory"):
        made(path, tensors.items())


def test_a_changed_file_is_seen_before_it_is_used(
    mixture: tuple[Path, Tensors], tmp_path: Path
) -> None:
    path, tensors = mixture
    shutil.copytree(path, tmp_path / "made")
    file = tmp_path / "made" / FROM_ENGINE
    file.write_text(file.read_text().replace("up_proj", "xp_proj"))
    with pytest.raises(ArtifactError, match="sha256 differs"):
        made(tmp_path / "made", tensors.items())
    assert json.loads((path / FROM_ENGINE).read_text())["schema_version"] == 1


def test_a_dtype_is_not_chosen_without_weights() -> None:
    with pytest.raises(UsageError, match=r"can't be decided[\s\S]*--weights from-engine"):
        CompileOptions(target="xpu", dtype="auto", weights="from-engine")
