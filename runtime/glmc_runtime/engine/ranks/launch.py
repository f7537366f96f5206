"""The process of a rank: how it is started, and what it is told of its place."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from glmc_runtime.engine.ranks.channel import Channel

# The path of imports is the caller's own, whatever the folder that it runs in.
_COMMAND = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from glmc_runtime.engine.ranks.worker import main; main(sys.argv[1])"
)


@dataclass(frozen=True)
class Ends:
    """The controller's ends of a rank's two channels, and the rank's own."""

    steps: Channel
    watch: Channel
    rank_steps: socket.socket
    rank_watch: socket.socket

    def close(self) -> None:
        for each in (self.steps, self.watch, self.rank_steps, self.rank_watch):
            each.close()


def new_ends() -> Ends:
    steps, rank_steps = socket.socketpair()
    watch, rank_watch = socket.socketpair()
    return Ends(Channel(steps), Channel(watch), rank_steps, rank_watch)


def start(rank: int, size: int, ends: Ends, shared: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """Start a rank, in a session of its own: signals of a terminal are the controller's alone.

    The system ends it with the thread that calls this. ``shared`` are descriptors that it has too,
    under the same numbers.
    """
    own = (ends.rank_steps.fileno(), ends.rank_watch.fileno())
    numbers = ",".join(map(str, (os.getpid(), *own, *shared)))
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, numbers, *sys.path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(*own, *shared),
        env=environment(os.environ, rank, size),
        start_new_session=True,
    )


def environment(given: Mapping[str, str], rank: int, size: int) -> dict[str, str]:
    """Variables of a rank's process. Threads are divided among the ranks, and gloo's connections
    stay on this host, unless the caller's variables say otherwise."""
    cores = len(os.sched_getaffinity(0))
    usual = {"OMP_NUM_THREADS": str(max(1, cores // size)), "GLOO_SOCKET_IFNAME": "lo"}
    place = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "PYTHONUNBUFFERED": "1",
    }
    return {**usual, **given, **place}
