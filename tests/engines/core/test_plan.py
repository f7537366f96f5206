"""The artifact that serves: a named one must fit, otherwise one is compiled."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glmc_engines.core import compiler, same_model, wanted
from glmc_engines.core.checkpoint import directory_of
from glmc_engines.core.errors import NoArtifactError, UnsupportedError
from glmc_engines.core.header import Header, Sizes
from glmc_engines.core.options import Options
from glmc_engines.core.plan import artifact_for
from glmc_engines.core.wanted import Wanted, decode_buckets, prefill_buckets, target_of
from glmc_runtime.errors import ArtifactError, GlmcError
from tests.engines.core.compilers import stand_in
from tests.runtime.toy import (
    HEAD_DIM,
    HEADS,
    HIDDEN,
    VOCABULARY,
    toy_weights,
    write_manifest,
    write_toy,
)

WANTED = Wanted("cpu", Sizes(16, 4, 60, torch.float32), block_size=4)
CONFIG = {
    "architectures": ["Toy"],
    "num_hidden_layers": 1,
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "head_dim": HEAD_DIM,
    "rope_theta": 10000.0,
}


def toy(tmp_path: Path, made_of: Path | None = None, large: bool = False) -> Path:
    """The toy with what a compiler writes of the checkpoint that it has read."""
    path = write_toy(tmp_path / "toy")
    manifest = Header.of(path).manifest
    files = {"config.json": {"sha256": "of another copy"}}
    for each in () if made_of is None else made_of.glob("*.safetensors"):
        data = each.read_bytes()
        header = data[: 8 + int.from_bytes(data[:8], "little")]
        digest = sha256(header if large else data).hexdigest()
        files[each.name] = {"sha256": digest, "whole": not large}
    inputs = {"files": files, "options": {"weights": "checkpoint"}, "config": CONFIG}
    (path / "inputs.json").write_text(json.dumps(inputs))
    write_manifest(path, manifest)
    return path


def checkpoint(tmp_path: Path, **changes: Any) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


def test_a_named_one_that_fits(tmp_path: Path) -> None:
    path = toy(tmp_path)
    found = artifact_for(checkpoint(tmp_path), WANTED, Options(artifact=path))
    assert (found.path, found.origin) == (path, "named")


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"target": "cuda"}, NoArtifactError, ("another target", "--target=cuda")),
        ({"dtype": torch.bfloat16}, NoArtifactError, ("another dtype", "--dtype=bfloat16")),
        ({"ranks": 2}, NoArtifactError, ("number of tensor parallel", "--tensor-parallel=2")),
        ({"context": 61}, UnsupportedError, ("tokens of a sequence", "--max-context=61")),
        ({"tokens": 17}, UnsupportedError, ("tokens in a step", "--prefill-buckets=16,17")),
        ({"sequences": 5}, UnsupportedError, ("sequences in a step", "--decode-buckets=1,2,4,5")),
        ({"block_size": 7}, NoArtifactError, ("no whole number", "--block-size=7")),
    ],
)
def test_a_named_one_that_does_not_fit(
    tmp_path: Path, changes: dict[str, Any], kind: type[GlmcError], words: tuple[str, str]
) -> None:
    """Each error has the command that compiles the right one."""
    own = {name: value for name, value in changes.items() if hasattr(WANTED.sizes, name)}
    if own and "dtype" not in own:
        wanted = replace(WANTED, sizes=replace(WANTED.sizes, **own))
    elif own:
        wanted = replace(WANTED, sizes=replace(WANTED.sizes, dtype=own["dtype"]))
    else:
        wanted = replace(WANTED, **changes)
    place = checkpoint(tmp_path)
    with pytest.raises(kind, match=words[0]) as caught:
        artifact_for(place, wanted, Options(artifact=toy(tmp_path)))
    assert f"glmc compile {place}" in caught.value.remedy and words[1] in caught.value.remedy


def test_smaller_steps_will_do(tmp_path: Path) -> None:
    path = toy(tmp_path)
    sizes = replace(WANTED.sizes, tokens=8192, sequences=256)
    wanted = replace(WANTED, sizes=sizes, smaller_steps=True)
    assert artifact_for(checkpoint(tmp_path), wanted, Options(artifact=path)).path == path
    longer = replace(wanted, sizes=replace(sizes, context=61))
    with pytest.raises(UnsupportedError) as caught:
        artifact_for(checkpoint(tmp_path), longer, Options(artifact=path))
    assert "buckets" not in caught.value.remedy.partition("glmc compile")[2]


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"architectures": ["Other"]}, "architecture Other"),
        ({"num_hidden_layers": 2}, "num_hidden_layers 2"),
        ({"vocab_size": 1}, "vocab_size 1"),
        ({"head_dim": 99, "hidden_size": 7}, "hidden_size 7, head_dim 99"),
    ],
)
def test_a_named_one_of_another_model(tmp_path: Path, changes: dict[str, Any], shown: str) -> None:
    with pytest.raises(NoArtifactError, match="another model") as caught:
        artifact_for(checkpoint(tmp_path, **changes), WANTED, Options(artifact=toy(tmp_path)))
    assert caught.value.expected == shown


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"rope_theta": 5.0}, "rope_theta 5.0"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps 1e-06"),
        ({"max_position_embeddings": 99}, "max_position_embeddings 99"),
        ({"n_routed_experts": 8, "routed_scaling_factor": 2.5}, "routed_scaling_factor 2.5"),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, "rope.rope_type yarn"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary_factor 0.25"),
        ({"a_field_of_tomorrow": True}, "a_field_of_tomorrow True"),
    ],
)
def test_another_field_is_another_model(
    tmp_path: Path, changes: dict[str, Any], shown: str
) -> None:
    """Sizes and architecture agree, numbers do not."""
    options = Options(artifact=toy(tmp_path))
    with pytest.raises(NoArtifactError, match="another model") as caught:
        artifact_for(checkpoint(tmp_path, **changes), WANTED, options)
    assert shown in caught.value.expected and "glmc compile" in caught.value.remedy


@pytest.mark.parametrize(
    "changes",
    [
        {"transformers_version": "4.57.0", "dtype": "float16", "eos_token_id": 3, "unused": None},
        {"rope_theta": None, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
    ],
)
def test_another_config_that_says_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = toy(tmp_path)
    place = checkpoint(tmp_path, **changes)
    assert artifact_for(place, WANTED, Options(artifact=path)).path == path


def test_an_artifact_that_does_not_say_what_it_was_made_of(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "unknown")
    with pytest.raises(NoArtifactError, match="does not say") as caught:
        artifact_for(checkpoint(tmp_path), WANTED, Options(artifact=path))
    assert "compile it again" in caught.value.remedy


def test_a_checkpoint_without_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whether the artifact is of it: said, or refused where plans are required."""
    options = Options(artifact=toy(tmp_path))
    place = tmp_path / "nowhere"
    said: list[str] = []
    monkeypatch.setattr(same_model._LOG, "warning", lambda text, *_: said.append(text))
    artifact_for(place, WANTED, options)
    assert ["has no config.json" in text for text in said] == [True]
    with pytest.raises(NoArtifactError, match=r"no config\.json to hold the artifact against"):
        artifact_for(place, WANTED, replace(options, require=True))


def with_weights(folder: Path, words: torch.Tensor) -> Path:
    save_file({"words": words}, str(folder / "model.safetensors"))
    return folder


@pytest.mark.parametrize("large", [False, True])
def test_weights_of_another_checkpoint(
    tmp_path: Path, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its config is the same. Large files are known by their headers, which say nothing of the
    numbers, so a few tensors are looked at."""
    monkeypatch.setattr(same_model, "_KEPT", ("words",))
    words = toy_weights()["words"]
    place = with_weights(checkpoint(tmp_path), words)
    options = Options(artifact=toy(tmp_path, place, large))
    assert artifact_for(place, WANTED, options).origin == "named"
    with_weights(place, words + 1)
    with pytest.raises(NoArtifactError, match="weights of another checkpoint") as caught:
        artifact_for(place, WANTED, options)
    assert ("words" if large else "model.safetensors") in caught.value.found
    with_weights(place, torch.zeros(3))
    with pytest.raises(NoArtifactError, match="weights of another checkpoint"):
        artifact_for(place, WANTED, options)
    (place / "model.safetensors").rename(place / "model-00001-of-00001.safetensors")
    with pytest.raises(NoArtifactError, match="weights of another checkpoint"):
        artifact_for(place, WANTED, options)
    (place / "model-00001-of-00001.safetensors").unlink()
    assert artifact_for(place, WANTED, options).origin == "named"


def test_a_named_one_that_is_damaged(tmp_path: Path) -> None:
    path = toy(tmp_path)
    (path / "plans" / "decode.json").unlink()
    with pytest.raises(ArtifactError, match="decode"):
        artifact_for(checkpoint(tmp_path), WANTED, Options(artifact=path))


def test_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path / "cache"))
    options = Options(compiler=stand_in(tmp_path / "compiler").command)
    origins = [artifact_for(checkpoint(tmp_path), WANTED, options).origin for _ in range(2)]
    assert origins == ["compiled", "cached"]


def test_none_is_named_and_there_is_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Kunlun not even where glmc is installed: torch is another one there."""
    with pytest.raises(NoArtifactError, match="no compiler") as caught:
        artifact_for(checkpoint(tmp_path), replace(WANTED, target="xpu"), Options())
    assert "--target=xpu" in caught.value.remedy
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoArtifactError, match="no compiler"):
        artifact_for(checkpoint(tmp_path), WANTED, Options())


def test_buckets_of_decode_pad_a_large_step_by_a_quarter_at_most() -> None:
    assert decode_buckets(3) == (1, 2, 3)
    assert decode_buckets(64) == (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)
    found = decode_buckets(512)
    assert found[-1] == 512 and list(found) == sorted(set(found)) and len(found) < 32
    large = [pair for pair in pairwise(found) if pair[0] >= 32]
    assert all(after - before <= before / 4 for before, after in large)


@pytest.mark.parametrize("largest", [2000, 8192])
def test_buckets_of_prefill_pad_by_an_eighth_at_most(largest: int) -> None:
    assert prefill_buckets(8) == (8,)
    assert prefill_buckets(40) == (16, 32, 40)
    found = prefill_buckets(largest)
    assert found[-1] == largest and list(found) == sorted(set(found)) and len(found) < 100
    large = [pair for pair in pairwise(found) if pair[0] >= 128]
    assert all(after - before <= min(before / 8, 128) for before, after in large)


def test_the_target_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert target_of("cpu") == "cpu"
    monkeypatch.setattr(wanted.importlib.util, "find_spec", lambda name: None)
    assert target_of("cuda") == "cuda"
    monkeypatch.setattr(wanted.importlib.util, "find_spec", lambda name: name)
    assert target_of("cuda") == "xpu"


def test_where_a_checkpoint_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory, or a model of a hub that was downloaded; nothing is asked for."""
    assert directory_of(str(tmp_path)) == tmp_path
    hub = pytest.importorskip("huggingface_hub")
    kept = {
        (None, "zai-org/GLM"): str(tmp_path / "snapshot" / "config.json"),
        ("elsewhere", "zai-org/GLM"): str(tmp_path / "elsewhere" / "config.json"),
    }
    monkeypatch.setattr(
        hub,
        "try_to_load_from_cache",
        lambda name, file, cache_dir, revision: kept.get((cache_dir, name)),
    )
    assert directory_of("zai-org/GLM") == tmp_path / "snapshot"
    assert directory_of("zai-org/GLM", None, "elsewhere") == tmp_path / "elsewhere"
    assert directory_of("zai-org/GLM", None, "not-there") == tmp_path / "snapshot"
    assert directory_of("zai-org/other", None, "elsewhere") == Path("zai-org/other")
    monkeypatch.undo()
    assert directory_of(str(tmp_path / "a" / "b" / "nowhere")) == tmp_path / "a" / "b" / "nowhere"


def test_where_a_checkpoint_of_modelscope_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")

    def download(name: str, revision: str | None, **options: Any) -> str:
        assert options == {"cache_dir": None, "local_files_only": True} and revision == "v1"
        if name != "ZhipuAI/GLM":
            raise ValueError("not in the cache")
        return str(tmp_path)

    module = "modelscope.hub.snapshot_download"
    for name in ("modelscope", "modelscope.hub", module):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[module], "snapshot_download", download, raising=False)
    assert directory_of("ZhipuAI/GLM", "v1", modelscope=True) == tmp_path
    assert directory_of("ZhipuAI/other", "v1", modelscope=True) == Path("ZhipuAI/other")
    monkeypatch.setitem(sys.modules, module, None)  # it is not installed
    assert directory_of("ZhipuAI/GLM", "v1", modelscope=True) == Path("ZhipuAI/GLM")
