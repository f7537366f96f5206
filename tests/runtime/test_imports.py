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
session = glmc_runtime.load(sys.argv[1])
assert session.generate([[1, 2, 3]], max_new_tokens=2, ignore_eos=True)[0].tokens
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & {"glmc", "transformers", "tokenizers", "jinja2", "glmc_kunlun_emulator"}))
"""


def test_generating_loads_neither_compiler_nor_transformers(toy_path: Path) -> None:
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(toy_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={"PYTHONPATH": f"{root}:{ROOT.parent}", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    # torch itself may bring jinja2 along; the runtime must not.
    assert result.stdout.strip() in ("[]", "['jinja2']")


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
