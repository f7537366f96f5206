"""The peers of one model, as processes that stay up: what they load is made, then each starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cpu.peers import BEFORE, INDUCTOR, LLAMA_CPP, MODULES, OURS, Source
from bench.models import BenchModel
from bench.processes import Running, start
from glmc.weights.random_checkpoint import write_random_checkpoint

_ROOT = Path(__file__).parents[2]
_OF_ARTIFACTS = (OURS, INDUCTOR, BEFORE)


@dataclass(frozen=True)
class Setting:
    """What all sides of a run have in common; ``trees`` are the folders of some peers' code."""

    dtype: str
    threads: int
    clock: str
    trees: Mapping[str, Path]
    exact: bool = False

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": str(self.threads),
        }


def checkpoint_of(model: BenchModel, folder: Path) -> Path:
    """The model's own checkpoint, or one of random weights in ``folder``, kept if it is there."""
    if model.checkpoint is not None:
        return model.checkpoint
    place = folder / model.key
    if not place.exists():
        write_random_checkpoint(place, model.config)
    elif json.loads((place / "config.json").read_text()) != dict(model.config):
        raise SystemExit(f"{place} is another model: remove it, or keep files elsewhere")
    return place


def sources(
    names: list[str], model: BenchModel, folder: Path, setting: Setting
) -> dict[str, Source]:
    """Make what each peer loads. Checkpoints and GGUF files that an earlier run kept are used
    again; artifacts are compiled anew, since the compiler may have changed."""
    checkpoint = checkpoint_of(model, folder)
    stem = folder / f"{model.key}.{setting.dtype}"
    made: dict[str, Source] = {}
    for name in names:
        tree = setting.trees.get(name)
        place = checkpoint
        began = time.monotonic()
        if name == LLAMA_CPP:
            place = stem.with_suffix(f"{stem.suffix}.gguf")
            if not place.exists():
                _run(["bench.cpu.to_gguf", str(tree), str(checkpoint), str(place), setting.dtype])
        elif name in _OF_ARTIFACTS:
            part = BEFORE if name == BEFORE else OURS
            place = stem.with_suffix(f"{stem.suffix}.{part}")
            options = ["--target", "cpu", "--dtype", setting.dtype, "--output", str(place)]
            _run(["glmc", "compile", str(checkpoint), *options, "--force"], tree)
        made[name] = Source(checkpoint, place, setting.dtype, setting.threads, tree, setting.exact)
        if place != checkpoint:
            print(f"{name}: {place.name} took {time.monotonic() - began:.1f} s", file=sys.stderr)
    return made


def _run(words: list[str], tree: Path | None = None) -> None:
    """A module in a process of its own, of this checkout or of another ``tree``."""
    root = tree if tree is not None and words[0] == "glmc" else _ROOT
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_paths(root))}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}")


def _paths(root: Path) -> list[str]:
    return [str(root), str(root / "runtime")]


def started(
    name: str, source: Source, prompt: list[int], setting: Setting, folder: Path
) -> tuple[Running, dict[str, Any]]:
    """A side that has given its first token, and what its start took."""
    began = time.monotonic()
    side = start(name, "bench.cpu.side", folder, setting.environment, None)
    try:
        side.connection.send(
            {
                "source": source,
                "module": MODULES[name],
                "paths": _paths(source.tree) if name == BEFORE and source.tree else [],
                "clock": setting.clock,
                "prompt": prompt,
                "began": began,
            }
        )
        return side, side.answer()
    except BaseException:
        side.end()
        raise


@contextmanager
def up(
    made: Mapping[str, Source], prompt: list[int], setting: Setting, folder: Path, starts: int
) -> Iterator[tuple[list[Running], dict[str, list[dict[str, Any]]]]]:
    """All sides, started ``starts`` times in turn, and what each start took; the last stay up."""
    took: dict[str, list[dict[str, Any]]] = {name: [] for name in made}
    with ExitStack() as stack:
        sides = []
        for number in range(starts):
            for name, source in made.items():
                side, found = started(name, source, prompt, setting, folder)
                took[name].append(found)
                if number < starts - 1:
                    side.end()
                else:
                    stack.callback(side.end)
                    sides.append(side)
        yield sides, took
