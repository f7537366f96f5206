"""The runtime stands alone: no compiler, no transformers, nothing optional until it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import glmc_runtime

ROOT = Path(glmc_runtime.__file__).parent
FORBIDDEN = {"glmc", "transformers", "numpy", "typer", "rich"}

SCRIPT = """
import sys
import tests.runtime.toy
import glmc_runtime
path, names = sys.argv[1:]
session = glmc_runtime.load(path)
assert session.generate([[1, 2, 3]], max_new_tokens=2, ignore_eos=True)[0].tokens
with open(names, "w") as file:
    file.write("\\n".join(sys.modules))
from glmc_runtime.cli import main
sys.exit(main(["run", path, "--token-ids", "1,2,3", "--max-new-tokens", "2", "--ignore-eos"]))
"""


@pytest.fixture(scope="module")
def process(
    toy_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """A process of its own with a full disk behind its output, and the packages that generating
    loaded."""
    root, names = Path(__file__).parents[2], tmp_path_factory.mktemp("process") / "names"
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(toy_path), str(names)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=root,
            env={"PYTHONPATH": f"{root}:{ROOT.parent}", "OMP_NUM_THREADS": "1"},
        )
    assert names.exists(), result.stderr
    return result, {name.partition(".")[0] for name in names.read_text().splitlines()}


def test_generating_loads_neither_compiler_nor_transformers(
    process: tuple[subprocess.CompletedProcess[str], set[str]],
) -> None:
    _, loaded = process
    assert {"torch", "glmc_runtime"} <= loaded
    # torch itself may bring jinja2 along; the runtime must not.
    assert not loaded & {"glmc", "transformers", "tokenizers", "glmc_kunlun_emulator"}


def test_after_a_full_disk_nothing_is_said_that_is_not_the_error(
    process: tuple[subprocess.CompletedProcess[str], set[str]],
) -> None:
    result, _ = process
    assert result.returncode == 1
    assert result.stderr.startswith("[GLMC-2009]")
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr


def test_no_file_names_a_forbidden_package() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            packages = {name.partition(".")[0] for name in names}
            assert not packages & FORBIDDEN, path


def test_the_package_itself_imports_without_torch() -> None:
    modules = "glmc_runtime.format.plan, glmc_runtime.format.manifest"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],
        check=False,
        env={"PYTHONPATH": str(ROOT.parent)},
    )
    assert result.returncode == 0


def test_public_names_are_those_of_their_modules() -> None:
    for name in glmc_runtime.__all__:
        assert getattr(glmc_runtime, name) is not None
    assert dir(glmc_runtime) == sorted(glmc_runtime.__all__)
    assert glmc_runtime.Session.__mro__[1] is glmc_runtime.Engine
    with pytest.raises(AttributeError, match="has no attribute 'Sesion'"):
        glmc_runtime.Sesion  # type: ignore[attr-defined]  # noqa: B018
