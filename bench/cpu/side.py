"""``python -m bench.cpu.side ADDRESS``: one peer in a process of its own, which is told what to do.

Nothing but what the peer itself needs is imported here, and each kind of start is timed apart.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from bench.cpu.peers import Peer

_CLOCKS: dict[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "processor": time.process_time,
}
_MIB = 1 << 10  # in the KiB of /proc


def memory() -> dict[str, float]:
    """MiB of this process: the most that was ever resident, and what is anonymous now; what is
    resident of mapped files is in the first alone."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {name: int(fields[name].split()[0]) / _MIB for name in ("VmHWM", "RssAnon")}


class Side:
    """A loaded peer and the sequences that it decodes."""

    def __init__(self, peer: Peer, clock: Callable[[], float]) -> None:
        self._peer, self._clock = peer, clock
        self._sequences: Any = None

    def first(self, prompt: list[int]) -> int:
        """The first token behind a prompt."""
        sequences, logits = self._peer.prefill([prompt], 1)
        token = int(logits.argmax(-1)[0])
        self._peer.release(sequences)
        return token

    def begin(self, prompts: list[list[int]], room: int) -> dict[str, Any]:
        """Prefill the sequences that :meth:`decode` goes on with, in place of those before."""
        self.close()
        self._sequences, _ = self._peer.prefill(prompts, room)
        return {}

    def close(self) -> dict[str, Any]:
        """Let the sequences go; what memory there was with them."""
        found = memory()
        if self._sequences is not None:
            self._peer.release(self._sequences)
            self._sequences = None
        return found

    def decode(self, steps: list[list[int]]) -> dict[str, Any]:
        """Seconds for so many steps, each with a token for each sequence and its argmax."""
        started = self._clock()
        for tokens in steps:
            self._peer.decode(self._sequences, tokens).argmax(-1).tolist()
        return {"seconds": self._clock() - started}

    def prefill(self, prompts: list[list[int]]) -> dict[str, Any]:
        """Seconds from prompts to their first tokens."""
        started = self._clock()
        sequences, logits = self._peer.prefill(prompts, 1)
        logits.argmax(-1).tolist()
        seconds = self._clock() - started
        found = memory()
        self._peer.release(sequences)
        return {"seconds": seconds, **found}

    def answers(self, prompts: list[list[int]], steps: list[list[int]]) -> dict[str, Any]:
        """The logits behind prompts, and behind each of the steps after them."""
        sequences, logits = self._peer.prefill(prompts, len(steps))
        found = [logits.tolist()]
        for tokens in steps:
            found.append(self._peer.decode(sequences, tokens).tolist())
        self._peer.release(sequences)
        return {"logits": found}


def main() -> int:
    with Client(sys.argv[1]) as parent:
        return _told(parent)


def _told(parent: Connection) -> int:
    asked = parent.recv()
    source = asked["source"]
    for part in asked["paths"]:
        sys.path.insert(0, part)
    ready = time.monotonic()
    module = import_module(asked["module"])
    imported = time.monotonic()
    peer: Peer = module.load(source)
    loaded = time.monotonic()
    side = Side(peer, _CLOCKS[asked["clock"]])
    token = side.first(asked["prompt"])
    ended = time.monotonic()
    parent.send(
        {
            "python": ready - asked["began"],
            "import": imported - ready,
            "hashes": peer.hashing,
            "load": loaded - imported - (peer.hashing or 0.0),
            "first": ended - loaded,
            "total": ended - asked["began"],
            "token": token,
            "version": peer.version,
            "prefills": peer.prefills,
            **memory(),
        }
    )
    return _serve(parent, side)


def _serve(parent: Connection, side: Side) -> int:
    """Answer until told to end, or left alone. An answer says how much processor time went by while
    waiting for its order, and how long that was: a thread that spins would disturb the others."""
    spun = waited = 0.0
    while True:
        began, clock = time.process_time(), time.monotonic()
        try:
            order = parent.recv()
        except EOFError:  # whoever asked has ended
            return 1
        spun += time.process_time() - began
        waited += time.monotonic() - clock
        if order is None:
            return 0
        name, arguments = order
        do: Callable[..., dict[str, Any]] = getattr(side, name)
        parent.send({**do(**arguments), "spun": spun, "waited": waited})


if __name__ == "__main__":
    sys.exit(main())
