"""Everything for some models and one engine: checkpoints, both runs of the engine, Hugging Face."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
Run = Callable[[str, Sequence[str], Mapping[str, str], Path], object]
"""Runs a module with words and an environment to its end, and adds what it says to a log."""


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


def afresh(module: str, words: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """In a new process of this interpreter."""
    with log.open("ab") as output:
        subprocess.run(
            [sys.executable, "-m", module, *words],
            env=environment,
            cwd=ROOT,
            stdout=output,
            stderr=output,
            check=False,
        )


def rows(engine: str, asked: Sequence[Subject], run: Run = afresh) -> Iterator[Row]:
    """A row for each model, served by this interpreter, with plans and without at a time."""
    with ThreadPoolExecutor(len(PLANS)) as runs:
        answers = list(runs.map(lambda plans: _served(engine, asked, plans, run), PLANS))
    yield from judged_rows(asked, *answers)


def judged_rows(
    asked: Sequence[Subject], ours: Sequence[Result], theirs: Sequence[Result]
) -> Iterator[Row]:
    """A row for each model, of what was answered with plans and without."""
    for subject, one, other in zip(asked, ours, theirs, strict=True):
        yield _row(subject, one, other)


def _row(subject: Subject, ours: Result, theirs: Result) -> Row:
    row = Row(subject, ours, theirs)
    if row.failed:
        return row
    model = _once(load_eager(ROOT / subject.checkpoint, torch.float32))
    texts = subject.texts * 2
    found = ours.at_once + ours.staggered
    beside, where = chosen(model, texts, found)
    row = replace(row, hugging_face=beside, where=tuple(where[:3]))
    if row.unable:
        return row
    without = theirs.at_once + theirs.staggered
    return replace(
        row,
        without=judged(model, texts, without, found),
        engine=chosen(model, texts, without)[0],
    )


def _once(model: Callable[..., object]) -> Callable[..., object]:
    """A model that computes each text once: all runs should have made the same ones."""
    kept: dict[tuple[int, ...], object] = {}

    def ask(input_ids: torch.Tensor, **options: object) -> object:
        text = tuple(input_ids[0].tolist())
        if text not in kept:
            kept[text] = model(input_ids=input_ids, **options)
        return kept[text]

    return ask


def _served(engine: str, asked: Sequence[Subject], plans: str, run: Run) -> list[Result]:
    """What a process of the engine answers, and another one after each model that ends it."""
    log = FOLDER / f"{engine}.{plans}.log"
    log.unlink(missing_ok=True)
    found: list[Result] = []
    while rest := asked[len(found) :]:
        answers = _answers(engine, rest, plans, log, run)
        found += answers
        if len(answers) < len(rest):
            found.append(Result(rest[len(answers)].name, [], [], error=_last_error(log)))
    return found


def _answers(
    engine: str, asked: Sequence[Subject], plans: str, log: Path, run: Run
) -> list[Result]:
    questions, answered = (FOLDER / f"{engine}.{plans}.{what}.json" for what in ("asked", "told"))
    write(questions, list(asked))
    answered.unlink(missing_ok=True)
    module = "tests.engines.equality.child"
    run(module, [engine, plans, str(questions), str(answered)], _environment(engine, plans), log)
    return read_results(answered) if answered.exists() else []


def _last_error(log: Path) -> str:
    """The last exception in a log, and where the rest is."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
    return f"{said[-1] if said else 'it ended'} (see {log})"


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
