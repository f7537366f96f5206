"""What a command line imports before it has something to compute: nothing that takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import ROOT

HEAVY = {"torch", "transformers", "sympy", "networkx", "numpy", "safetensors", "tokenizers"}

SCRIPT = """
import contextlib, io, json, sys
import glmc, {module} as module
results = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = module.main(words)
    results.append([status, out.getvalue(), err.getvalue()])
print(json.dumps([results, sorted(name for name in sys.modules if "." not in name)]))
"""
COMMON = {
    (): (0, "COMMAND"),
    ("--help",): (0, "doctor"),
    ("--version",): (0, "0.1.0"),
    ("run", "--help"): (0, "--max-new-tokens"),
    ("ruin",): (2, "did you mean 'run'?"),
    ("rnu",): (2, "did you mean 'run'?"),
    ("--verbos", "run"): (2, "--verbose"),
    ("run", "artifact", "--promt", "x"): (2, "--prompt"),
    ("run",): (2, "ARTIFACT"),
    ("run", "artifact", "--seed", "x"): (2, "--seed"),
    ("run", "nowhere", "--token-ids", "1"): (2, "no such artifact"),
    ("run", "nowhere", "--token-ids", "1", "--temperature", "nan"): (2, "finite"),
    ("doctor", "nowhere", "-vq"): (2, "no such artifact"),
    ("record", "--help"): (0, "--tap-memory"),
    ("record", "nowhere", "--ids", "1", "-o", "a.h5"): (2, "where:    nowhere"),
}
COMPILER = {
    ("compile", "--help"): (0, "--decode-buckets"),
    ("compile", "glm-4.8"): (2, "did you mean 'glm-4.7'"),
    ("compile", "GLM-4-9B-0414"): (2, "A preset has no weights"),
    ("compile", "glm-4.7", "--ouput", "x"): (2, "--output"),
    ("compile", "glm-4.7", "--target", "gpu"): (2, "did you mean 'cuda'?"),
    ("compile", "glm-4.7", "--dtype", "fp16"): (2, "did you mean 'float16'?"),
    ("compile", "glm-4.7", "--passes-off", "qk-norm"): (2, "did you mean 'qk_norm'"),
    ("compile", "glm-4.7", "--passes-on", "moegate"): (2, "did you mean 'moe_gate'"),
    ("compile", "glm-4.7", "-o", "taken"): (2, "the output path is taken"),
    ("compile", "glm-4.7", "-o", "taken", "--force"): (2, "that is no glmc artifact"),
    ("compile", "glm-4.7", "-o", "taken", "--if-changed", "-q"): (2, "that is no glmc artifact"),
    ("compile", "glm-4.7", "--abi-profile", "P-D"): (2, "expected: P-A, P-B, P-C"),
    ("diff", "glm-4.7"): (2, "the argument B is missing"),
    ("align", "--help"): (0, "--thresholds"),
    ("align", "a.h5"): (2, "the argument B is missing"),
    ("align", "a.h5", "b.h5", "--prompt", "x", "--calls"): (2, "--prompt, --calls"),
    ("align", "a.h5", "b.h5", "--layers", "x"): (2, "--layers 0,3-5"),
    ("presets", "more"): (2, "there is no further argument 'more'"),
    ("run", "a", "--seed", "x"): (2, "--seed is no integer\n  found:    'x'"),
    ("run", "a", "--stop-token-ids", "x"): (2, "--stop-token-ids is no integer"),
    ("chat", "a", "--system"): (2, "--system needs a value\n  remedy:   see 'glmc chat --help'"),
    ("bisect", "glm-z1"): (2, "glm-z1-9b"),
    ("bisect", "glm-4.7", "--target", "kunlun"): (2, "did you mean 'xpu'?"),
    ("inspect", "nowhere"): (2, "no such artifact"),
    ("diff", "nowhere", "nowhere"): (2, "neither a preset nor"),
    ("diff", "glm-4.7", "glm-4.7 --dtype fp16"): (2, "did you mean 'float16'?"),
    ("fit", "glm-4.8"): (2, "did you mean 'glm-4.7'"),
    ("estimate", "--help"): (0, "--device"),
    ("estimate", "glm-4.8", "--device", "h200"): (2, "did you mean 'glm-4.7'"),
    ("estimate", "glm-4.7", "--device", "h20"): (2, "did you mean 'h200'?"),
    ("estimate", "glm-4.7", "--device", "h200", "--batch", "1,x"): (2, "no list of integers"),
    ("record", "nowhere", "--output", "a.h5"): (2, "no checkpoint to record, and no artifact"),
    ("record", "glm-4.7", "--ids", "1", "-o", "a.h5"): (2, "a preset has no weights"),
    ("record", "model", "--ids", "1"): (2, "a record needs a file"),
    ("record", "model", "--ids", "1", "-o", "a.h5", "--keep", "x"): (2, "rows:N"),
    ("record", "model", "--ids", "x", "-o", "a.h5"): (2, "--ids is no list of token ids"),
    ("record", "model", "--ids", "1", "-o", "a.h5", "--level", "opp"): (2, "did you mean 'op'?"),
    ("diff", "--help"): (0, "--exit-code"),
    ("timeline", "--help"): (0, "--phase"),
    ("timeline", "nowhere"): (2, "the file can't be read"),
    ("timeline", "nowhere", "--steps", "2"): (2, "--steps is no slice"),
    ("diff", "glm-4.7", "glm-4.8"): (2, "did you mean 'glm-4.7'"),
    ("inspect", "nowhere", "--page", "page.html"): (2, "no such artifact"),
}


@pytest.mark.parametrize(
    ("module", "expected", "forbidden"),
    [
        ("glmc.cli.main", COMMON | COMPILER, HEAVY),
        ("glmc_runtime.cli", COMMON, HEAVY | {"typer", "rich"}),
    ],
)
def test_help_and_mistakes_import_nothing_heavy(
    module: str,
    expected: dict[tuple[str, ...], tuple[int, str]],
    forbidden: set[str],
    tmp_path: Path,
) -> None:
    """In one process each, where folders ``taken`` and ``model`` are and none that has another of
    the names."""
    (tmp_path / "taken" / "of_others").mkdir(parents=True)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    script = SCRIPT.format(module=module)
    if module == "glmc_runtime.cli":
        script = script.replace("import glmc, ", "import ")
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(list(expected))],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}", "COLUMNS": "100"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results, modules = json.loads(done.stdout)
    for words, (status, text), (actual, out, err) in zip(
        expected, expected.values(), results, strict=True
    ):
        assert actual == status, (words, out, err)
        assert text in (err if status else out), (words, out, err)
        assert bool(out) != bool(err), words  # help on stdout, mistakes on stderr
        assert not err or err.startswith("[GLMC-"), words
    assert not forbidden & set(modules)
    assert "typer" in modules or module == "glmc_runtime.cli"
