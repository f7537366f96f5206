"""The controller's watch over its ranks: all of them run, or none does.

A thread starts the processes, hears their heartbeats, reads what they print, and looks whether they
are there. When one ends, reports an error or is not heard for ``SILENCE`` seconds, all are killed
and the cause is kept for whoever waits for an answer. Silence is that of a thread of the rank which
does nothing but beat, so a long step is none.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from time import monotonic
from typing import IO, Any

from glmc_runtime.engine.ranks.channel import Channel, ChannelClosedError
from glmc_runtime.engine.ranks.launch import Ends, start
from glmc_runtime.engine.ranks.reports import Report, again, ended, report_of, silent
from glmc_runtime.errors import FileError, GlmcError, RankError

_LOG = logging.getLogger("glmc_runtime.ranks")
SILENCE = 6.0  # seconds without a heartbeat, of which there is one a second
_TICK = 0.25
# After the first sign that something is wrong others may come, among them that of the cause.
_GRACE = 0.3
_STOPPING = 5.0  # seconds that ranks have to end by themselves
_KEPT_LINES = 40
_STATES = {"T": "was stopped by a signal", "t": "is held by a debugger", "D": "waits for a device"}


class RankProcess:
    """One rank as the controller sees it."""

    def __init__(self, rank: int, ends: Ends) -> None:
        self.rank = rank
        self.ends = ends
        self.process: subprocess.Popen[bytes] | None = None
        self.heard = monotonic()
        self.ready: dict[str, Any] | None = None
        self.progress = (0, 0)
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.reported = False
        self._signs: tuple[int, ...] = ()
        self._unfinished = b""

    @property
    def pid(self) -> int:
        return 0 if self.process is None else self.process.pid

    def look(self, now: float) -> None:
        """Until it is ready, whatever it does is a sign of life: a library that is being imported
        may keep the interpreter from its watcher."""
        signs = _status(self.pid)[1] if self.ready is None else self._signs
        if signs != self._signs:
            self._signs, self.heard = signs, now

    def take_output(self, piece: bytes) -> None:
        *lines, self._unfinished = (self._unfinished + piece).split(b"\n")
        if not piece and self._unfinished:
            lines, self._unfinished = [self._unfinished], b""
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            self.lines.append(text)
            _LOG.info("rank %d: %s", self.rank, text)


class Watch:
    """Starts ``size`` ranks and watches them until :meth:`close`, or until one fails.

    ``shared`` are descriptors that each of them gets.
    """

    def __init__(self, size: int, ends: list[Ends], shared: tuple[int, ...]) -> None:
        self.size = size
        self.ranks = [RankProcess(rank, pair) for rank, pair in enumerate(ends)]
        self._shared = shared
        self._changed = threading.Condition()
        self._reports: list[Report] = []
        self._failure: GlmcError | None = None
        self._closing: float | None = None
        self._due: float | None = None
        self._over = False
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name="glmc ranks", daemon=True)
        self._thread.start()

    def wait_ready(self, progress: Callable[[int, int], object] | None) -> list[dict[str, Any]]:
        """What each rank says of itself, once all are ready; raises what ended one."""
        shown = (0, 0)
        with self._changed:
            while True:
                if self._over or self._due is not None:
                    break
                done = (
                    sum(each.progress[0] for each in self.ranks),
                    sum(each.progress[1] for each in self.ranks),
                )
                if progress is not None and done != shown:
                    shown = done
                    progress(*done)
                ready = [each.ready for each in self.ranks if each.ready is not None]
                if len(ready) == self.size:
                    return ready
                self._changed.wait()
        raise self.failure()

    def failure(self) -> GlmcError:
        """Why there are no ranks any longer; waits until all have ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._over)
        if self._failure is None:
            return RankError(
                "the ranks of this session have ended",
                expected="a session that was not closed",
                remedy="load the artifact again",
            )
        return again(self._failure)

    @property
    def over(self) -> bool:
        return self._over

    def stop(self, ask: Callable[[], None]) -> None:
        """Let all ranks end: ``ask`` tells them to, and those that do not are killed later."""
        with self._changed:
            closing, self._closing = self._closing, self._closing or monotonic()
        if closing is None and not self._over:
            with contextlib.suppress(ChannelClosedError):
                ask()

    def join(self) -> None:
        """Wait until all have ended."""
        if threading.current_thread() is not self._thread:
            self._thread.join(_STOPPING + 5)

    def kill(self) -> None:
        """End all ranks at once."""
        with self._changed:
            self._closing = monotonic() - _STOPPING
        self.join()

    def _run(self) -> None:
        try:
            self._start()
            self._watch()
        except Exception as error:  # noqa: BLE001 - nobody may wait for ranks without a watch
            self._reports.append(Report(0, True, RankError(f"the watch failed: {error!r}")))
        finally:
            self._end()

    def _start(self) -> None:
        try:
            for each in self.ranks:
                each.process = start(each.rank, self.size, each.ends, self._shared)
                each.heard = monotonic()
                assert each.process.stdout is not None
                self._register(each.process.stdout, self._read_output, each)
                self._register(each.ends.watch, self._read_watch, each)
        except OSError as error:
            self._report(
                Report(
                    each.rank,
                    True,
                    FileError(
                        f"rank {each.rank} can't be started: {error.strerror or error}",
                        remedy="see the limits of processes and open files (ulimit -u, -n)",
                    ),
                )
            )
        finally:
            for each in self.ranks:
                each.ends.rank_steps.close()
                each.ends.rank_watch.close()

    def _register(
        self, file: IO[bytes] | Channel, read: Callable[[RankProcess], bool], each: RankProcess
    ) -> None:
        self._selector.register(file, selectors.EVENT_READ, (read, each))

    def _watch(self) -> None:
        ticked = monotonic()
        while True:
            self._serve(_TICK)
            now = monotonic()
            if now - ticked > 4 * _TICK:  # a time in which this process did not run is no silence
                for each in self.ranks:
                    each.heard += now - ticked
            ticked = now
            if self._closing is not None:
                running = [each for each in self.ranks if self._status_of(each) is None]
                if not running or now - self._closing >= _STOPPING:
                    return
            else:
                self._look(now)
                if self._due is not None and now >= self._due:
                    return

    def _look(self, now: float) -> None:
        for each in self.ranks:
            if each.reported:
                continue
            status = self._status_of(each)
            if status is not None:
                self._drain(each)
                if not each.reported:
                    self._report(ended(each.rank, self.size, each.pid, status, [*each.lines]))
                continue
            each.look(now)
            if now - each.heard >= SILENCE:
                state = _STATES.get(_status(each.pid)[0], "runs")
                self._report(silent(each.rank, self.size, each.pid, SILENCE, state, [*each.lines]))

    @staticmethod
    def _status_of(each: RankProcess) -> int | None:
        return 1 if each.process is None else each.process.poll()

    def _serve(self, timeout: float) -> list[RankProcess]:
        """Read what is there, or comes within ``timeout``; the ranks that it is of."""
        served = []
        for key, _ in self._selector.select(timeout):
            read, each = key.data
            served.append(each)
            if not read(each):
                self._selector.unregister(key.fileobj)
        return served

    def _drain(self, each: RankProcess) -> None:
        """Read what a rank that is gone has left: its report may be the last of it."""
        while each in self._serve(0):
            pass

    def _read_output(self, each: RankProcess) -> bool:
        assert each.process is not None and each.process.stdout is not None
        piece = os.read(each.process.stdout.fileno(), 1 << 16)
        each.take_output(piece)
        return bool(piece)

    def _read_watch(self, each: RankProcess) -> bool:
        try:
            messages = [json.loads(message) for message in each.ends.watch.received()]
        except (ChannelClosedError, ValueError):
            return False
        each.heard = monotonic()
        with self._changed:
            for message in messages:
                self._take(each, message)
            self._changed.notify_all()
        return True

    def _take(self, each: RankProcess, message: dict[str, Any]) -> None:
        if "error" in message:
            self._report(report_of(each.rank, self.size, message["error"]))
        elif "ready" in message:
            each.ready = message["ready"]
        elif "progress" in message:
            done, total = message["progress"]
            each.progress = (done, total)
        elif "log" in message:
            level, name, text = message["log"]
            _warn(level, name, text)

    def _report(self, report: Report) -> None:
        with self._changed:
            self.ranks[report.rank].reported = True
            self._reports.append(report)
            if self._due is None:
                self._due = monotonic() + _GRACE
            self._changed.notify_all()

    def _end(self) -> None:
        for each in self.ranks:
            if each.process is not None and each.process.poll() is None:
                # With a compiler that it has started: each leads a session of its own.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(each.process.pid, signal.SIGKILL)
        for each in self.ranks:
            if each.process is not None:
                each.process.wait()
                assert each.process.stdout is not None
                each.process.stdout.close()
            each.ends.watch.close()
            each.ends.steps.end()  # a fork of this process may have the other end open
        self._selector.close()
        with self._changed:
            if self._reports and self._closing is None:
                # The first that is no mere consequence.
                self._failure = min(self._reports, key=lambda report: not report.own).error
            self._over = True
            self._changed.notify_all()


@cache
def _warn(level: int, name: str, text: str) -> None:
    """Log, once in a process, what one rank or several warn of."""
    logging.getLogger(name).log(level, "%s", text)


def _status(pid: int) -> tuple[str, tuple[int, ...]]:
    """The state of a process, and counts that grow while it does anything: faults, ticks."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ()
    fields = text.rpartition(")")[2].split()
    return fields[0], tuple(map(int, (fields[7], fields[9], fields[11], fields[12])))
