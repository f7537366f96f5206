"""Plans that are compiled at the start of an engine: once, kept, made again when damaged."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from glmc_engines.core import compiler
from glmc_engines.core.compiler import FOLDER, compiled, compiler_of
from glmc_engines.core.errors import CompileError, NoArtifactError, UnsupportedError
from glmc_engines.core.header import Header, Sizes
from glmc_engines.core.options import Options
from glmc_engines.core.wanted import Wanted
from glmc_engines.core.weights import load_model, wants_tensors
from tests.docs.markdown import ROOT
from tests.engines.core.compilers import StandIn, stand_in
from tests.support.thinned import thinned

PLANS = ("manifest.json", "plans/decode.json", "plans/prefill.json")
WANTED = Wanted("cpu", Sizes(16, 4, 60, torch.float32), block_size=4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / FOLDER


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "glm4"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def made(tmp_path: Path) -> StandIn:
    return stand_in(tmp_path / "compiler")


def run(checkpoint: Path, made: StandIn, wanted: Wanted = WANTED) -> tuple[Path, str]:
    words = compiler_of(Options(compiler=made.command), wanted.target)
    assert words is not None
    return compiled(checkpoint, wanted, words)


def test_compiled_once_and_kept(checkpoint: Path, made: StandIn, cache: Path) -> None:
    path, origin = run(checkpoint, made)
    assert origin == "compiled" and Header.of(path).tokens == 16
    assert path.parent == cache.resolve() and path.name.startswith("glm4-")
    assert run(checkpoint, made) == (path, "cached")
    words = made.calls[0]["words"]
    assert isinstance(words, list)
    assert words[:3] == ["-m", "glmc", "compile"] and Path(words[3]).name == path.name
    assert {"--target=cpu", "--dtype=float32", "--weights=from-engine"} <= set(words)
    assert {"--max-context=60", "--block-size=4", "--if-changed"} <= set(words)
    assert {"--decode-buckets=1,2,4", "--prefill-buckets=16"} <= set(words)


def test_the_compiler_sees_the_config_alone(
    checkpoint: Path, made: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing that is meant for the engine's own interpreter, its devices and ranks."""
    (checkpoint / "generation_config.json").write_text("{}")
    monkeypatch.setenv("PYTHONPATH", "/engine")
    monkeypatch.setenv("RANK", "1")
    run(checkpoint, made)
    (call,) = made.calls
    assert call["files"] == ["config.json", "generation_config.json"]
    assert (call["path"], call["devices"], call["rank"]) == (None, "", None)


@pytest.mark.parametrize(
    "change",
    [
        lambda checkpoint, wanted: (checkpoint / "config.json").write_text("{}") and wanted,
        lambda checkpoint, wanted: (
            (checkpoint / "generation_config.json").write_text("{}") and wanted
        ),
        lambda checkpoint, wanted: replace(wanted, target="cuda"),
        lambda checkpoint, wanted: replace(wanted, block_size=8),
        lambda checkpoint, wanted: replace(wanted, sizes=replace(wanted.sizes, ranks=2)),
    ],
)
def test_another_config_or_option_is_another_plan(
    checkpoint: Path, made: StandIn, change: Callable[[Path, Wanted], Wanted]
) -> None:
    first, _ = run(checkpoint, made)
    second, origin = run(checkpoint, made, change(checkpoint, WANTED))
    assert first != second and origin == "compiled" and first.is_dir()


def test_where_the_checkpoint_is_does_not_matter(
    checkpoint: Path, made: StandIn, tmp_path: Path
) -> None:
    path, _ = run(checkpoint, made)
    shutil.copytree(checkpoint, tmp_path / "copy")
    assert run(tmp_path / "copy", made) == (path, "cached")


@pytest.mark.parametrize(
    ("file", "damage"),
    thinned(
        product(PLANS, ["cut", "changed", "lost"]),
        long=[(PLANS[1], "cut"), (PLANS[1], "lost"), (PLANS[2], "cut"), (PLANS[2], "changed")],
    ),
)
def test_a_damaged_one_is_made_again(
    checkpoint: Path, made: StandIn, file: str, damage: str
) -> None:
    path, _ = run(checkpoint, made)
    data = (path / file).read_bytes()
    (path / file).unlink()
    if damage != "lost":
        (path / file).write_bytes(data[:-9] if damage == "cut" else data.replace(b"1", b"2"))
    assert run(checkpoint, made) == (path, "compiled")
    assert (path / file).read_bytes() == data


def test_processes_at_once_compile_once(checkpoint: Path, made: StandIn) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: run(checkpoint, made), range(4)))
    assert len({path for path, _ in found}) == 1
    assert sorted(origin for _, origin in found) == ["cached"] * 3 + ["compiled"]
    assert len(made.calls) == 1  # ranks that waited need not ask again; a later start does
    run(checkpoint, made)
    assert len(made.calls) == 2


LOST = """    1.0 s  capture
[GLMC-1005] unexpected number of fusions
  where:    moe_gate
  found:    moe_gate: expected 3, found 2
"""


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        (
            LOST,
            CompileError,
            r"status 2[\s\S]*GLMC-1005\] unexpected number[\s\S]*expected 3, found",
        ),
        ("[GLMC-1002] the checkpoint is quantised: FP8", UnsupportedError, "quantised: FP8"),
        ("Traceback\nNo module named glmc", CompileError, "No module named glmc"),
        ("", CompileError, "nothing"),
    ],
)
def test_a_compile_that_fails_says_why(
    checkpoint: Path, made: StandIn, text: str, kind: type[Exception], shown: str
) -> None:
    made.fail(text)
    with pytest.raises(kind, match=shown) as caught:
        run(checkpoint, made)
    assert type(caught.value) is kind and "1.0 s" not in str(caught.value)


def test_a_compiler_that_says_something_else(checkpoint: Path, made: StandIn) -> None:
    with pytest.raises(CompileError, match=r"status 0[\s\S]*hello"):
        compiled(checkpoint, WANTED, ("echo", "hello"))
    with pytest.raises(CompileError, match="can't be started"):
        compiled(checkpoint, WANTED, ("/no/such/python",))


def test_without_a_config(tmp_path: Path, made: StandIn) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NoArtifactError, match=r"no config\.json"):
            run(folder, made)
    assert made.calls == []


def test_without_a_folder_to_keep_it_in(
    checkpoint: Path, made: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path / "file"))
    with pytest.raises(NoArtifactError, match="GLMC_CACHE=DIRECTORY"):
        run(checkpoint, made)


def test_a_full_disk_is_no_reason_to_serve_without_plans(
    checkpoint: Path, made: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that can't be had leaves the model to the engine; what fails in it does not."""

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CompileError, match="No space left on device") as caught:
        run(checkpoint, made)
    assert "TMPDIR" in caught.value.remedy


@pytest.mark.long
def test_a_compile_that_does_not_end(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "endless.py"
    program.write_text("import sys, time\nprint('tracing', flush=True)\ntime.sleep(60)\n")
    monkeypatch.setattr(compiler, "SECONDS", 3.0)
    with pytest.raises(CompileError, match=r"within 3 s[\s\S]*tracing"):
        compiled(checkpoint, WANTED, (sys.executable, str(program)))


def test_a_compile_that_does_not_end_leaves_no_children(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The compiler is a child where the command is "conda run"."""
    child = tmp_path / "child"
    script = f'sleep 60 & echo $! > "{child}"; wait'
    monkeypatch.setattr(compiler, "SECONDS", 1.0)
    with pytest.raises(CompileError, match="within 1 s"):
        compiled(checkpoint, WANTED, ("sh", "-c", script))
    assert ends(int(child.read_text()))


def ends(process: int) -> bool:
    """Whether a process is gone, or is dead and nobody's yet, within some seconds."""
    stat = Path(f"/proc/{process}/stat")
    for _ in range(50):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    os.kill(process, signal.SIGKILL)
    return False


def test_a_lock_that_nobody_lets_go_of(
    checkpoint: Path, made: StandIn, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = run(checkpoint, made)
    lock = os.open(cache / f".{path.name}.lock", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        monkeypatch.setattr(compiler, "SECONDS", 0.2)
        with pytest.raises(CompileError, match=r"another process has been compiling[\s\S]*\.lock"):
            run(checkpoint, made)
    finally:
        os.close(lock)
    monkeypatch.setattr(compiler, "SECONDS", 60.0)
    assert run(checkpoint, made) == (path, "cached")


def test_which_interpreter_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiler_of(Options(compiler="env A=1 python"), "xpu") == ("env", "A=1", "python")
    assert compiler_of(Options(), "cpu") == (sys.executable,)
    assert compiler_of(Options(), "xpu") is None
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    assert compiler_of(Options(), "cpu") is None


@pytest.mark.parametrize("installed", [False, True])
def test_a_checkout_in_the_current_folder_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    """``python -m`` looks into the current folder first; an installation beside it counts, in a
    folder of packages or by ``PYTHONPATH``."""
    checkout, packages = tmp_path / "checkout", tmp_path / "packages"
    (checkout / "glmc").mkdir(parents=True)
    (checkout / "glmc" / "__init__.py").touch()
    (checkout / "glmc.egg-info").mkdir()
    (checkout / "glmc.egg-info" / "PKG-INFO").write_text("Name: glmc\nVersion: 1\n")
    (packages / "glmc-1.dist-info").mkdir(parents=True)
    (packages / "glmc-1.dist-info" / "METADATA").write_text("Name: glmc\nVersion: 1\n")
    monkeypatch.chdir(checkout)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    spec = SimpleNamespace(origin=str(checkout / "glmc" / "__init__.py"))
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(sys, "path", ["", str(packages)] if installed else [""])
    assert compiler_of(Options(), "cpu") == ((sys.executable,) if installed else None)
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    assert compiler_of(Options(), "cpu") == (sys.executable,)


@pytest.mark.long
def test_a_compile_of_glmc_itself() -> None:
    """From config.json to a model in memory, in a process of this interpreter."""
    wanted = Wanted("cpu", Sizes(40, 3, 256, torch.float32), block_size=16)
    words = compiler_of(Options(), "cpu")
    assert words is not None
    checkpoint = ROOT / "models" / "tiny-dense"
    path, origin = compiled(checkpoint, wanted, words)
    header = Header.of(path)
    assert origin == "compiled" and wants_tensors(header)
    header.check(wanted.sizes)
    assert header.manifest.cache.block_size == 16
    model, names = load_model(header, None)
    assert model.max_tokens == 40 and "model.norm.weight" in names
    report = json.loads((path / "report.json").read_text())
    assert report["model"]["name"] == path.name
    assert compiled(checkpoint, wanted, words) == (path, "cached")
