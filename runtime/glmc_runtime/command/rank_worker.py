"""The process of a rank: it runs one task and writes the answer; see :mod:`.rank_processes`.

Nothing is imported here but the task's own module, so that it begins at once.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
from importlib import import_module
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def main(words: str) -> None:
    """Run what :func:`.rank_processes.run_ranks` asks for; nothing is taken apart afterwards, as
    what collectives leave behind may wait for peers."""
    asked = json.loads(words)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its parent's alone, which ends its ranks
    _end_with(asked["parent"])
    module, _, name = asked["task"].partition(":")
    folder, rank = Path(asked["folder"]), asked["rank"]
    task = getattr(import_module(module), name)
    (folder / f"begun-{rank}").touch()
    answer = task(rank, asked["size"], folder, **asked["settings"])
    unfinished = folder / f"unfinished-{rank}"
    unfinished.write_text(json.dumps(answer), encoding="utf-8")
    unfinished.replace(folder / f"answer-{rank}")
    os._exit(0)


def _end_with(parent: int) -> None:
    """The system ends this process when its parent is gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
