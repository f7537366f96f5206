"""Everything for some models and one engine: checkpoints, both runs of the engine, Hugging Face."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from tests.e2e.eager import load_eager
from tests.e2e.judge import chosen, judged
from tests.engines.equality.report import Row
from tests.engines.equality.result import Result, Subject, read_results, write
from tests.engines.equality.traffic import prompts

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / ".engines" / "equality"
PLANS = ("with", "without")


def names() -> list[str]:
    """All models: the shipped ones, then random ones."""
    return _in_compiler("cpu").split()


def subjects(wanted: Sequence[str], texts: int, tokens: int, target: str = "cpu") -> list[Subject]:
    """These models, with checkpoints and artifacts that are up to date."""
    _in_compiler(target, *wanted)
    made = []
    for name in wanted:
        drawn = FOLDER / name / "checkpoint"
        checkpoint = drawn if drawn.is_dir() else ROOT / "models" / name
        vocabulary = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
        artifact = FOLDER / name / f"artifact.{target}"
        asked = prompts(min(vocabulary, 1500), texts)
        places = (str(place.relative_to(ROOT)) for place in (checkpoint, artifact))
        made.append(Subject(name, *places, asked, tokens))
    return made


def rows(engine: str, asked: Sequence[Subject]) -> Iterator[Row]:
    """A row for each model, served by this interpreter."""
    yield from judged_rows(asked, *(_served(engine, asked, plans) for plans in PLANS))


def judged_rows(
    asked: Sequence[Subject], ours: Sequence[Result], theirs: Sequence[Result]
) -> Iterator[Row]:
    """A row for each model, of what was answered with plans and without."""
    for subject, one, other in zip(asked, ours, theirs, strict=True):
        yield _row(subject, one, other)


def _row(subject: Subject, ours: Result, theirs: Result) -> Row:
    if ours.error or theirs.error:
        return Row(subject, ours, theirs)
    model = load_eager(ROOT / subject.checkpoint, torch.float32)
    texts = subject.texts * 2
    found = ours.at_once + ours.staggered
    without = theirs.at_once + theirs.staggered
    beside, where = chosen(model, texts, found)
    return Row(
        subject,
        ours,
        theirs,
        beside,
        judged(model, texts, without, found),
        chosen(model, texts, without)[0],
        tuple(where[:3]),
    )


def _served(engine: str, asked: Sequence[Subject], plans: str) -> list[Result]:
    """What a process of the engine answers."""
    questions, answered = FOLDER / f"{engine}.asked.json", FOLDER / f"{engine}.{plans}.json"
    write(questions, list(asked))
    answered.unlink(missing_ok=True)
    module = "tests.engines.equality.child"
    command = [sys.executable, "-m", module, engine, plans, str(questions), str(answered)]
    log = FOLDER / f"{engine}.{plans}.log"
    with open(log, "wb") as output:
        status = subprocess.run(
            command,
            env=_environment(engine, plans),
            cwd=ROOT,
            stdout=output,
            stderr=output,
            check=False,
        ).returncode
    if not answered.exists():
        raise RuntimeError(f"{engine} {plans} plans ended with {status}: see {log}")
    return read_results(answered)


def _environment(engine: str, plans: str) -> dict[str, str]:
    environment = {
        **os.environ,
        "GLMC_ENGINE_PLATFORM": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    for name in ("GLMC_ARTIFACT", "GLMC_COMPILER", "GLMC_REQUIRE"):
        environment.pop(name, None)
    if plans == "with":
        environment["GLMC_REQUIRE"] = "1"
    # Without plans an engine is allowed our platform alone, and none of our model classes.
    if engine == "vllm":
        environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
        if plans == "without":
            environment["VLLM_PLUGINS"] = "glmc_cpu"
    else:
        from glmc_engines.sglang.cpu import STAND_INS

        path = [str(STAND_INS), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        if plans == "without":
            environment["SGLANG_PLUGINS"] = "glmc_cpu"
    return environment


def _in_compiler(target: str, *names: str) -> str:
    """Run :mod:`.prepare` in the interpreter that has glmc, whose paths are not the engine's."""
    command = [*shlex.split(os.environ["GLMC_COMPILER"]), "-m"]
    command += ["tests.engines.equality.prepare", str(FOLDER)]
    path = os.pathsep.join((str(ROOT), str(ROOT / "runtime")))
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    FOLDER.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [*command, target, *names], env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    return done.stdout.decode()
