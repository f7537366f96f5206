"""The README's commands as they stand, from an artifact to the text of a server of vLLM's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.engines.vllm.conftest import COMPILER
from tests.engines.vllm.reference import ROOT
from tests.engines.vllm.server import Server, free_port, up


def commands() -> list[str]:
    """The commands of the section, as they are shown."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Serving with vLLM and SGLang")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    return [line.removeprefix("$ ").partition("  #")[0].strip() for line in block.splitlines()]


def checkout(folder: Path) -> Path:
    """A checkout in which ``make`` has made its environments: those that this runs with."""
    (folder / ".engines").mkdir(parents=True)
    for name, place in (
        (".venv", Path(COMPILER).parents[1]),
        (".engines/vllm", Path(sys.prefix)),
        ("models", ROOT / "models"),
    ):
        (folder / name).symlink_to(place)
    return folder


def test_the_commands_from_compile_to_answer(tmp_path: Path) -> None:
    """Only the port is another one. What ``make`` makes is for tests/docs to say; the line of
    SGLang is in place of vLLM's."""
    make, compiled, exported, served, of_sglang, asked = commands()
    assert make.startswith("make ") and "sglang" in of_sglang
    here, log, port = checkout(tmp_path / "checkout"), tmp_path / "log", free_port()
    ours = os.pathsep.join(map(str, (ROOT, ROOT / "runtime")))
    environment = {**os.environ, "PYTHONPATH": ours}
    subprocess.run(["bash", "-c", compiled], cwd=here, env=environment, check=True)
    environment["PYTHONPATH"] = str(ROOT / "runtime")  # the engine's own has no compiler
    shell = ["bash", "-c", f"{exported}\nexec {served.replace('8000', str(port))}"]
    with log.open("wb") as written:
        process = subprocess.Popen(
            shell,
            cwd=here,
            env=environment,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with up(Server(process, port, log)) as server:
        done = subprocess.run(
            ["bash", "-c", asked.replace("8000", str(port))],
            cwd=here,
            check=True,
            capture_output=True,
            text=True,
        )
        assert len(done.stdout.split()) > 8
        assert server.metric("glmc_serves") == 1
        assert 0 < server.metric("glmc_steps_total") == server.metric("glmc_replays_total")
        line = "glmc serves models/tiny-moe: out/tiny-moe.cpu (named), cpu, float32, 1 rank"
        assert line in log.read_text()
