"""The five commands of the README, from an artifact to the text of a server."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.engines.vllm.conftest import COMPILER
from tests.engines.vllm.reference import ROOT
from tests.engines.vllm.server import serve


def commands() -> list[str]:
    """The commands of the section, as they are shown."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Serving with vLLM and SGLang")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    return [line.removeprefix("$ ").partition("  #")[0].strip() for line in block.splitlines()]


def test_the_five_commands(tmp_path: Path) -> None:
    """``make`` has made the environment that this runs in; the port is another one."""
    make, compiled, exported, served, asked = map(shlex.split, commands())
    assert make == ["make", "engines-vllm", "engines-sglang"]
    artifact = tmp_path / "tiny-moe.cpu"
    assert compiled[:2] == ["glmc", "compile"] and compiled[-2] == "--output"
    python_path = os.pathsep.join(map(str, (ROOT, ROOT / "runtime")))
    subprocess.run(
        [COMPILER, "-m", "glmc", *compiled[1:-1], str(artifact)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": python_path},
        check=True,
    )
    assert exported[0] == "export"
    environment = dict(word.split("=", 1) for word in exported[1:])
    assert environment.pop("GLMC_ARTIFACT") == compiled[-1]
    environment["GLMC_ARTIFACT"] = str(artifact)
    assert served[0] == ".engines/vllm/bin/vllm" and served[-2:] == ["--port", "8000"]
    model, *options = served[2:-2]
    with serve(ROOT / model, tmp_path / "log", environment, *options) as server:
        assert asked[:2] == [".engines/vllm/bin/python", "-c"]
        program = asked[2].replace("http://127.0.0.1:8000", server.url)
        program = program.replace(f"'{model}'", f"'{ROOT / model}'")
        done = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        )
        assert len(done.stdout.split()) > 8
        assert server.metric("glmc_serves") == 1
        assert 0 < server.metric("glmc_steps_total") == server.metric("glmc_replays_total")
