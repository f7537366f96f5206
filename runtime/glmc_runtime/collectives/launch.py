"""Start the ranks of a short job on this host, one process each, and stop all of them in time.

No process outlives the one that started it: each asks the system to be killed with it, and ends by
itself when the time is up.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from importlib import import_module
from typing import IO, Any

import torch
import torch.distributed as dist

from glmc_runtime.collectives.group import Group
from glmc_runtime.errors import GlmcError, GuardError, Lines, RankError

Job = Callable[..., str]
"""Called on each rank with its group, its device and the options; rank 0's text is the result."""
BACKENDS = ("gloo", "nccl")
_DIST: Any = dist  # some of its names have no types
_POLL = 0.02
_SHOWN_LINES, _SHOWN_CHARACTERS = 8, 200
_SET_PDEATHSIG = 1


def run_job(
    job: str,
    options: Mapping[str, Any],
    ranks: int,
    *,
    backend: str = "gloo",
    topology: str,
    limit: float,
) -> str:
    """What ``job``, ``module:function``, returns on rank 0 of ``ranks`` processes; raises
    :class:`RankError` where one fails or ``limit`` seconds have passed. ``options`` are JSON."""
    if backend == "nccl":
        _require_cards(ranks)
    store = _DIST.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    shared = {
        "job": job,
        "options": dict(options),
        "size": ranks,
        "backend": backend,
        "topology": topology,
        "limit": limit,
        "port": store.port,
        "parent": os.getpid(),
    }
    with tempfile.TemporaryDirectory(prefix="glmc-ranks-") as folder, ExitStack() as stack:
        logs = [stack.enter_context(open(f"{folder}/{rank}", "w+b")) for rank in range(ranks)]
        processes = [
            stack.enter_context(
                _stopped(
                    json.dumps({**shared, "rank": rank, "result": f"{folder}/result"}), logs[rank]
                )
            )
            for rank in range(ranks)
        ]
        _wait(processes, logs, limit)
        with open(f"{folder}/result", encoding="utf-8") as file:
            return file.read()


@contextmanager
def _stopped(words: str, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process of a rank, which is killed at the end of the block unless it has ended."""
    process = subprocess.Popen(_command(words), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _command(words: str) -> list[str]:
    return [sys.executable, "-m", __name__, words]


def joined_job(job: str, options: Mapping[str, Any], backend: str, topology: str) -> str | None:
    """The same as one of the ranks that torchrun started; None but on rank 0."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    dist.init_process_group(backend)
    try:
        group = dist.group.WORLD
        rank, size = dist.get_rank(), dist.get_world_size()
        text = _called(job, options, Group(rank, size, group, topology=topology), backend, local)
    finally:
        dist.destroy_process_group()
    return text if rank == 0 else None


def _wait(
    processes: Sequence[subprocess.Popen[bytes]], logs: Sequence[IO[bytes]], limit: float
) -> None:
    end = time.monotonic() + limit
    while True:
        states = [process.poll() for process in processes]
        failed = next((rank for rank, state in enumerate(states) if state), None)
        if failed is not None:
            raise RankError(
                f"rank {failed} failed",
                place=f"rank {failed} of {len(processes)}",
                expected="exit status 0",
                found=_last_lines(logs[failed], states[failed] or 0),
            )
        if all(state == 0 for state in states):
            return
        if time.monotonic() > end:
            late = ", ".join(str(rank) for rank, state in enumerate(states) if state is None)
            raise RankError(
                "the ranks did not end in time",
                place=f"rank {late}",
                expected=f"at most {limit:g} s",
                remedy="try again on an idle machine, with fewer ranks",
            )
        time.sleep(_POLL)


def _last_lines(log: IO[bytes], status: int) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()[-_SHOWN_LINES:]
    ended = f"signal {-status}" if status < 0 else f"exit status {status}"
    return Lines.of([ended, *(line[:_SHOWN_CHARACTERS] for line in lines)])


def _main(words: str) -> None:
    given = json.loads(words)
    rank, size, limit = given["rank"], given["size"], given["limit"]
    _end_with(given["parent"])
    faulthandler.dump_traceback_later(limit, exit=True)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
    store = _DIST.TCPStore("127.0.0.1", given["port"], None, False)
    process_group = _process_group(given["backend"], store, rank, size, limit)
    group = Group(rank, size, process_group, topology=given["topology"], patience=limit)
    try:
        text = _called(given["job"], given["options"], group, given["backend"], rank)
    except GlmcError as error:
        sys.exit(str(error))
    if rank == 0:
        with open(given["result"], "w", encoding="utf-8") as file:
            file.write(text)
    faulthandler.cancel_dump_traceback_later()


def _called(job: str, options: Mapping[str, Any], group: Group, backend: str, local: int) -> str:
    module, _, name = job.partition(":")
    function: Job = getattr(import_module(module), name)
    device = torch.device("cuda", local) if backend == "nccl" else torch.device("cpu")
    return function(group, device, **options)


def _process_group(backend: str, store: Any, rank: int, size: int, limit: float) -> Any:
    wait = timedelta(seconds=limit)
    if backend == "gloo":
        gloo = _DIST.ProcessGroupGloo
        options = gloo._Options()
        options._devices = [gloo.create_device(hostname="127.0.0.1")]
        options._timeout = wait
        return gloo(store, rank, size, options)
    torch.cuda.set_device(rank)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
    return dist.group.WORLD


def _require_cards(ranks: int) -> None:
    if torch.cuda.device_count() < ranks:
        raise GuardError(
            f"{ranks} ranks over nccl need a card each",
            expected=f"{ranks} cards",
            found=str(torch.cuda.device_count()),
            remedy="run it where the cards are, or with --backend gloo",
        )


def _end_with(parent: int) -> None:
    """Be killed when the process that started this one ends, however it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started the ranks is gone")


if __name__ == "__main__":
    _main(sys.argv[1])
