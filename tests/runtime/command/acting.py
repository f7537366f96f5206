"""Tasks of ranks that go wrong in one way each; they run in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def answer(rank: int, size: int, folder: Path, **settings: Any) -> dict[str, Any]:
    variables = dict(os.environ)
    names = ("RANK", "WORLD_SIZE", "OWN")
    return {"size": size, **settings, **{name: variables.get(name) for name in names}}


def hang_in_one(rank: int, size: int, folder: Path, pids: str) -> str:
    """Rank 1 hangs, deaf to SIGTERM, with a child that hangs too."""
    if rank == 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        Path(pids).write_text(f"{os.getpid()} {child.pid}", encoding="utf-8")
        time.sleep(300)
    return "here"


def stop_one(rank: int, size: int, folder: Path, pids: str) -> str:
    """Rank 0 is stopped, as a process in a debugger is."""
    if rank == 0:
        Path(pids).write_text(str(os.getpid()), encoding="utf-8")
        os.kill(os.getpid(), signal.SIGSTOP)
    return "here"


def fail_in_one(rank: int, size: int, folder: Path) -> str:
    if rank == 1:
        raise ValueError("no such card")
    time.sleep(300)
    return "never"


def die(rank: int, size: int, folder: Path, **settings: Any) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def die_unusually(rank: int, size: int, folder: Path) -> str:
    os.kill(os.getpid(), signal.SIGRTMIN + 1)  # a number without a name
    return "never"


def leave(rank: int, size: int, folder: Path) -> str:
    os._exit(0)


def address_window(rank: int, size: int, folder: Path, **settings: Any) -> dict[str, Any]:
    """As a group whose address windows are refused unless the check is left out."""
    if dict(os.environ).get("BKCL_CHECK_AW") != "0":
        raise RuntimeError("[BKCL] addr_window check failed")
    return {"sums": {"1": True}}


def wrong_sums(rank: int, size: int, folder: Path, **settings: Any) -> dict[str, Any]:
    return {"sums": {"1": True, "4096": rank != 1}}


def hang(rank: int, size: int, folder: Path, **settings: Any) -> str:
    time.sleep(300)
    return "never"


card = group = links = hang  # by the names of the probes' own tasks
