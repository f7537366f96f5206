"""The README's commands as they stand, from an artifact to the text of a server of vLLM's; and what
docs/engines.md shows of such a server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from vllm.engine.arg_utils import EngineArgs

from glmc_engines.core.errors import UnsupportedError
from tests.engines.vllm.conftest import COMPILER
from tests.engines.vllm.reference import ROOT
from tests.engines.vllm.server import Server, free_port, up

SERVING = "Serving with vLLM and SGLang"


def block(page: str, title: str, language: str) -> str:
    """The only block of a language in a section of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return str(found)


def commands() -> list[str]:
    """The commands of the section, as they are shown."""
    lines = re.findall(r"^\$ (.*)$", block("README.md", SERVING, "console"), re.MULTILINE)
    return [line.partition("  #")[0].strip() for line in lines]


def shown(page: str, title: str) -> str:
    """What a section shows of the output of its last command."""
    return block(page, title, "console").rpartition("\n$ ")[2].partition("\n")[2].strip()


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
    make, compiled, served, of_sglang, asked = commands()
    assert make.startswith("make ") and "sglang" in of_sglang
    here, log, port = checkout(tmp_path / "checkout"), tmp_path / "log", free_port()
    ours = os.pathsep.join(map(str, (ROOT, ROOT / "runtime")))
    environment = {**os.environ, "PYTHONPATH": ours}
    subprocess.run(["bash", "-c", compiled], cwd=here, env=environment, check=True)
    environment["PYTHONPATH"] = str(ROOT / "runtime")  # the engine's own has no compiler
    shell = ["bash", "-c", f"exec env {served.replace('8000', str(port))}"]
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
        assert done.stdout.strip() == shown("README.md", SERVING) != ""
        assert server.metric("glmc_serves") == 1
        assert 0 < server.metric("glmc_steps_total") == server.metric("glmc_replays_total")
        assert shown("docs/engines.md", "Metrics") in server.get("/metrics").splitlines()
        assert block("docs/engines.md", "What serves", "log").strip() in log.read_text()
        assert "Application startup complete" in log.read_text()


def test_the_refusal_that_the_page_shows(in_process: pytest.MonkeyPatch) -> None:
    in_process.setenv("GLMC_REQUIRE", "1")
    model = str(ROOT / "models" / "tiny-moe")
    with pytest.raises(UnsupportedError) as raised:
        EngineArgs(model=model, dtype="float32", enable_lora=True).create_engine_config()
    assert str(raised.value) == block("docs/engines.md", "Limits", "text").strip()
