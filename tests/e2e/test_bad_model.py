"""Bad input to ``glmc compile``: each a code and a remedy, nothing written, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc import compiler as driver
from glmc.artifact import packing
from glmc.backends import cpu
from glmc.config import CompileOptions
from glmc.job import read_job
from glmc.presets.catalog import load_preset
from tests.support.checkpoints import tiny_checkpoint, tiny_file
from tests.support.command import SMALL, Command, command_of, in_a_process, require_refusal

pytestmark = pytest.mark.usefixtures("shared_captures")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    return command_of(capsys)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound checkpoint of two files; tests change copies of it."""
    return tiny_checkpoint(tmp_path_factory.mktemp("whole") / "model", shard_bytes=60_000)


@pytest.fixture
def checkpoint(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "in" / "model"))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "model.glmc"


def change_config(checkpoint: Path, **fields: Any) -> None:
    """None removes a field."""
    path = checkpoint / "config.json"
    config = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: item for key, item in config.items() if item is not None}))


def require_nothing(output: Path) -> None:
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "LlamaForCausalLM"),
        ({"head_dim": None}, "head_dim"),
        ({"n_routed_experts": None, "norm_topk_prob": None}, "norm_topk_prob"),
        ({"hidden_size": "large"}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"torch_dtype": "float64", "dtype": "float64"}, "float64"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX"),
        ({"model_type": "glm4"}, "model_type"),
        ({"rope_scaling": {"type": "yarn"}}, "factor of rope_scaling"),
        ({"torch_dtype": None}, "--dtype"),
    ],
)
def test_a_config_that_can_not_be_compiled(
    checkpoint: Path, output: Path, run: Command, fields: dict[str, Any], word: str
) -> None:
    change_config(checkpoint, **fields)
    require_refusal(run("compile", checkpoint, "-o", output), "GLMC-1002", word)
    require_nothing(output)


def test_config_json_that_is_no_json(checkpoint: Path, output: Path, run: Command) -> None:
    (checkpoint / "config.json").write_text('{"hidden_size": 32,')
    require_refusal(run("compile", checkpoint, "-o", output), "GLMC-1002", "config.json")
    (checkpoint / "config.json").unlink()
    require_refusal(run("compile", checkpoint, "-o", output), "GLMC-1002", "missing")
    require_refusal(run("compile", checkpoint / "no", "-o", output), "GLMC-1002", "preset")
    require_nothing(output)


def test_a_config_of_other_weights(checkpoint: Path, output: Path, run: Command) -> None:
    change_config(checkpoint, intermediate_size=64)
    refused = run("compile", checkpoint, "-o", output)
    require_refusal(refused, "GLMC-1003", "mlp.gate_proj.weight", "[48, 32]")
    require_nothing(output)


def _shards(checkpoint: Path) -> list[Path]:
    return sorted(checkpoint.glob("*.safetensors"))


def test_a_truncated_weight_file(checkpoint: Path, output: Path, run: Command) -> None:
    last = _shards(checkpoint)[-1]
    os.truncate(last, last.stat().st_size - 1)
    require_refusal(run("compile", checkpoint, "-o", output), "GLMC-1003", last.name)
    os.truncate(last, 5)
    require_refusal(run("compile", checkpoint, "-o", output), "GLMC-1003", last.name)
    require_nothing(output)


@pytest.mark.parametrize("start", [0, 8, 40])
def test_a_corrupted_weight_file(checkpoint: Path, output: Path, run: Command, start: int) -> None:
    path = _shards(checkpoint)[0]
    data = bytearray(path.read_bytes())
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(bytes(data))
    require_refusal(run("compile", checkpoint, "-o", output), "GLMC-1003", path.name)
    require_nothing(output)


def test_a_missing_weight_file(checkpoint: Path, output: Path, run: Command) -> None:
    last = _shards(checkpoint)[-1]
    last.unlink()
    require_refusal(run("compile", checkpoint, "-o", output), "GLMC-1003", last.name)
    for path in _shards(checkpoint):
        path.unlink()
    require_refusal(run("compile", checkpoint, "-o", output), "GLMC-1003")
    require_nothing(output)


@pytest.mark.parametrize(
    ("flags", "code", "word"),
    [
        (["--dtype", "float8"], "GLMC-1001", "float8"),
        (["--target", "tpu"], "GLMC-1001", "tpu"),
        (["--abi-profile", "P-A"], "GLMC-1001", "xpu"),
        (["--target", "xpu", "--abi-profile", "P-Z"], "GLMC-1007", "P-Z"),
        (["--target", "xpu"], "GLMC-1006", "head size"),
        (["--target", "xpu", "--block-size", "7"], "GLMC-1006", "128"),
        (["--max-context", "4096"], "GLMC-1001", "--max-context"),
        (["--max-context", "0"], "GLMC-1001", "0"),
        (["--block-size", "0"], "GLMC-1001", "0"),
        (["--decode-buckets", "4,2"], "GLMC-1001", "4, 2"),
        (["--prefill-buckets", "many"], "GLMC-1001", "many"),
        (["--no-weights", "--random-weights"], "GLMC-1001", "exclude"),
    ],
)
def test_options_that_can_not_be_met(
    whole: Path, output: Path, run: Command, flags: list[str], code: str, word: str
) -> None:
    require_refusal(run("compile", whole, "-o", output, *flags), code, word)
    require_nothing(output)


def test_a_dtype_that_the_target_does_not_have(
    whole: Path, output: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both targets have all three dtypes today, so one is taken away here."""
    monkeypatch.setattr(cpu, "TARGET", replace(cpu.TARGET, dtypes=(torch.float32,)))
    refused = run("compile", whole, "-o", output, "--dtype", "float16")
    require_refusal(refused, "GLMC-1006", "float16", "--dtype")
    require_nothing(output)


def test_a_preset_has_no_weights(output: Path, run: Command) -> None:
    require_refusal(run("compile", "glm-4.5-air", "-o", output), "GLMC-1001", "--no-weights")
    assert load_preset("glm-4.5-air").parameters > 1e11
    require_nothing(output)


def test_a_path_that_is_taken(whole: Path, output: Path, run: Command) -> None:
    output.mkdir()
    (output / "diary.txt").write_text("mine")
    require_refusal(run("compile", whole, "-o", output, "--force"), "GLMC-1008", "taken")
    assert [path.name for path in output.iterdir()] == ["diary.txt"]
    file = output.parent / "file"
    file.write_text("mine")
    require_refusal(run("compile", whole, "-o", file, "--force"), "GLMC-1008", str(file))
    assert file.read_text() == "mine"


def _contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_a_full_disk_leaves_the_old_artifact(
    tmp_path: Path, output: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_checkpoint(tmp_path / "model", "glm-4-9b-0414")
    # One plan serves all attempts: it is the packing that fails here.
    plan = driver.compile_plan(read_job(model, CompileOptions(max_context=64)))
    monkeypatch.setattr(driver, "compile_plan", lambda job, *watchers: replace(plan, job=job))

    arguments = ("compile", model, "-o", output, *SMALL)
    assert run(*arguments).status == 0
    before = _contents(output)
    require_refusal(run(*arguments), "GLMC-1008", "--force")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(packing, "fill", full)
    require_refusal(run(*arguments, "--force"), "GLMC-1008", "disk is full", "bytes free")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(packing, "fill", interrupted)
    assert run(*arguments, "--force").status == 130
    assert _contents(output) == before
    assert list(output.parent.iterdir()) == [output]


def _own_mounts() -> bool:
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    mount = "mount -t tmpfs -o size=64k tmpfs /mnt"
    tried = subprocess.run([unshare, "-Urm", "sh", "-c", mount], capture_output=True)
    return tried.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not _own_mounts(), reason="needs a file system of its own to fill")
def test_a_disk_that_really_fills_up(tmp_path: Path) -> None:
    """A file system of 256 KiB, in a process that sees it alone: weights fit, the rest does not."""
    tiny_checkpoint(tmp_path / "model", "glm-4-9b-0414")
    small, listing = tmp_path / "small", tmp_path / "left.txt"
    small.mkdir()
    script = (
        f"mount -t tmpfs -o size=256k tmpfs {small} && dd if=/dev/zero of={small}/other bs=1k "
        f'count=100 status=none; "$@"; status=$?; ls -A {small} > {listing}; exit $status'
    )
    before = ("unshare", "-Urm", "sh", "-c", script, "sh")
    refused = in_a_process(
        "compile", tmp_path / "model", "-o", small / "model.glmc", *SMALL, before=before
    )
    require_refusal(refused, "GLMC-1008", "free")
    assert listing.read_text().split() == ["other"]


# The command line's own errors are shown by processes in test_bad_request.py and cli/.
@pytest.mark.slow
def test_a_process_of_its_own_shows_no_traceback(checkpoint: Path, output: Path) -> None:
    change_config(checkpoint, head_dim=None)
    refused = in_a_process("compile", checkpoint, "-o", output)
    require_refusal(refused, "GLMC-1002", "head_dim")
    require_nothing(output)


def test_the_tiny_file_is_one_that_compiles(whole: Path) -> None:
    """The tests above would be worth nothing if the unchanged config were refused as well."""
    assert json.loads((whole / "config.json").read_text()) == tiny_file("glm-4.7")
    assert len(_shards(whole)) > 1
