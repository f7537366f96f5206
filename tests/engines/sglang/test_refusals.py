"""Starts that can't be: the engine ends with our error in its own, named; or leaves us out.

Two are made at a time, all of them before the first test asks what became of one. What is broken
before SGLang is imported ends the command itself, the others a fork of what is imported.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.engines.processes import left, session_of
from tests.engines.sglang.broken import without
from tests.engines.sglang.forked import fork
from tests.engines.sglang.server import Begin, command, serving, started

MODEL = "tiny-dense"
LORA = ("--enable-lora", "--max-lora-rank", "8", "--lora-target-modules", "q_proj")
SECONDS = 120.0
"""In which a start that can't be has ended, whatever else runs."""
Make = Callable[..., str]


@dataclass(frozen=True)
class Start:
    """``artifact`` makes what is named, in a folder of the start; ``words`` are in the log."""

    name: str
    words: tuple[str, ...]
    artifact: Callable[[Make, Path], str | None] = lambda make, folder: make(MODEL)
    options: tuple[str, ...] = ()
    environment: Callable[[Path], dict[str, str]] = field(default=lambda folder: {})
    begin: Begin = fork


def damaged(change: Callable[[bytearray], None]) -> Callable[[Make, Path], str]:
    """A copy of an artifact in which the largest file is changed."""

    def make_one(make: Make, folder: Path) -> str:
        path = folder / "artifact"
        shutil.copytree(make(MODEL), path)
        files = [each for each in path.rglob("*") if each.is_file()]
        largest = max(files, key=lambda each: each.stat().st_size)
        data = bytearray(largest.read_bytes())
        change(data)
        largest.write_bytes(data)
        return str(path)

    return make_one


def halve(data: bytearray) -> None:
    del data[len(data) // 2 :]


def flip(data: bytearray) -> None:
    data[len(data) // 2] ^= 1


def required(folder: Path) -> dict[str, str]:
    return {"GLMC_REQUIRE": "1"}


STARTS = [
    Start("lora", ("[GLMC-4001]", "--enable-lora of SGLang"), options=LORA),
    Start(
        "another-model",
        ("[GLMC-4002]", "of another model"),
        lambda make, folder: make("tiny-moe"),
    ),
    Start(
        "missing", ("[GLMC-2001]", "no such artifact"), lambda make, folder: str(folder / "none")
    ),
    Start("truncated", ("[GLMC-2001]", "another size"), damaged(halve)),
    Start("flipped-bit", ("[GLMC-2001]", "sha256 differs"), damaged(flip)),
    Start(
        "nothing-named",
        ("[GLMC-4002] no artifact is named",),
        lambda make, folder: None,
        environment=lambda folder: {"GLMC_REQUIRE": "1", "GLMC_COMPILER": ""},
    ),
    Start(
        "name-that-is-missing",
        ("[GLMC-4003]", "register_attention_backend"),
        environment=lambda folder: (
            required(folder)
            | without(
                folder,
                "sglang.srt.layers.attention.attention_registry",
                "register_attention_backend",
            )
        ),
        begin=command,
    ),
    Start(
        "plug-in-that-can-t-be-imported",
        ("glmc_engines.sglang.plugin can't be imported",),
        environment=lambda folder: required(folder) | without(folder, "glmc_engines.sglang.plugin"),
        begin=command,
    ),
]


@dataclass(frozen=True)
class End:
    """How a start ended: the server's status and log, and the processes that it left."""

    status: int
    log: str
    left: int


@pytest.fixture(scope="module")
def ends(artifact: Make, tmp_path_factory: pytest.TempPathFactory) -> dict[str, End]:
    folders = {each.name: tmp_path_factory.mktemp(each.name) for each in STARTS}
    named = {each.name: each.artifact(artifact, folders[each.name]) for each in STARTS}

    def end(start: Start) -> End:
        values = start.environment(folders[start.name])
        with started(
            MODEL, named[start.name], *start.options, begin=start.begin, **values
        ) as server:
            status = server.process.wait(SECONDS)
            return End(status, server.log(), len(left(session_of(server.process.pid), 10)))

    with ThreadPoolExecutor(2) as starts:
        return dict(zip(folders, starts.map(end, STARTS), strict=True))


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.name)
def test_a_start_that_ends_with_the_reason_in_its_log(ends: dict[str, End], start: Start) -> None:
    end = ends[start.name]
    assert end.status != 0
    assert not [word for word in start.words if word not in end.log], end.log[-4000:]
    assert end.left == 0


def test_left_to_the_engine_and_said_so() -> None:
    with serving(MODEL, None, "--enable-metrics", GLMC_COMPILER="") as server:
        answer = server.post("/generate", {"text": "a", "sampling_params": {"max_new_tokens": 2}})
        assert answer["meta_info"]["completion_tokens"] == 2
        assert re.search(r"^glmc_serves\{.*\} 0\.0$", server.get("/metrics"), re.MULTILINE)
        assert f"glmc leaves {MODEL} to SGLang" in server.log()
