"""A tree of the repository: its models, and their canonical plans from processes of their own."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from glmc.errors import InternalError
from tools.plan_replay.canonical import Renames, canonical, digest, renamed

WORKER = Path(__file__).with_name("worker.py")


class PlanName(NamedTuple):
    """``target`` has the ABI profile after a slash, where there is one."""

    model: str
    target: str
    phase: str

    def __str__(self) -> str:
        return " ".join(self)


@dataclass(frozen=True)
class Plan:
    """A canonical plan on disk. ``error`` is set where the model does not compile."""

    sha256: str
    calls: int
    file: Path | None = None
    error: str | None = None

    @property
    def text(self) -> str:
        """What is compared; the error of a model that does not compile."""
        return f"{self.error}\n" if self.file is None else self.file.read_text(encoding="utf-8")


Plans = dict[PlanName, Plan]
Done = Callable[[str], None]


def models_of(root: Path) -> dict[str, str]:
    """By name what to compile: presets and shipped checkpoints, the deepest models first."""
    presets = sorted((root / "glmc" / "presets").glob("*.json"))
    checkpoints = sorted((root / "models").glob("*/config.json"))
    depths = {file.stem: _layers(_read(file)["config"]) for file in presets}
    depths |= {file.parent.name: _layers(_read(file)) for file in checkpoints}
    models = {file.stem: file.stem for file in presets}
    models |= {file.parent.name: str(file.parent) for file in checkpoints}
    # The longest compiles go first, so that the processes end together.
    return {name: models[name] for name in sorted(models, key=lambda name: -depths[name])}


def compile_tree(
    root: Path,
    folder: Path,
    models: Sequence[str],
    targets: Sequence[str] = (),
    jobs: int = 1,
    renames: Renames | None = None,
    done: Done = lambda model: None,
) -> Plans:
    """The plans of ``models`` of the tree at ``root``, kept in ``folder``, as ``renames`` calls
    them; ``jobs`` models at a time. Raises InternalError when a process ends early."""
    known = models_of(root)
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for model in (name for name in known if name in models):
        waiting.put(model)
    plans: Plans = {}
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with _process(root, folder, targets) as process:
                while not failed:
                    try:
                        model = waiting.get_nowait()
                    except queue.Empty:
                        return
                    answer = _ask(process, model, known[model], root)
                    plans.update(read_plans(model, answer, renames or Renames()))
                    done(model)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(max(1, min(jobs, waiting.qsize())))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return dict(sorted(plans.items()))


def _process(root: Path, folder: Path, targets: Sequence[str]) -> subprocess.Popen[str]:
    # -P: modules beside the worker must not shadow others.
    paths = [str(root), str(root / "runtime")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    environment.setdefault("HF_HUB_OFFLINE", "1")
    # Models are traced a tenth faster without torch's cache of fake results.
    environment.setdefault("TORCH_FAKE_TENSOR_DISPATCH_CACHE", "0")
    return subprocess.Popen(
        [sys.executable, "-P", str(WORKER), str(folder), ",".join(targets)],
        cwd=root,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def _ask(process: subprocess.Popen[str], name: str, model: str, root: Path) -> Any:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(f"{name}\t{model}\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        raise InternalError(
            "a process that compiles ended without an answer",
            place=f"{name} of {root}",
            found=f"exit status {process.wait()}",
            remedy="see what it said above; the driver of a very old commit is another one",
        )
    return json.loads(answer)


def read_plans(model: str, answer: dict[str, dict[str, str]], renames: Renames) -> Plans:
    """Canonical plans in place of the files that a worker has named."""
    plans: Plans = {}
    for target, phases in answer.items():
        if "error" in phases:
            plans[PlanName(model, target, "-")] = Plan("-", 0, error=phases["error"])
            continue
        for phase, name in phases.items():
            raw = Path(name)
            data = _read(raw)
            plan = renamed(data["plan"], renames)
            text = canonical(plan, data["weights"])
            file = raw.with_suffix(".plan")
            file.write_text(text, encoding="utf-8")
            raw.unlink()
            plans[PlanName(model, target, phase)] = Plan(digest(text), len(plan["calls"]), file)
    return plans


def _layers(config: dict[str, Any]) -> int:
    return int(config["num_hidden_layers"])


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
