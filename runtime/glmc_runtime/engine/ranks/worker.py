"""The process of a rank that a controller has started; see :mod:`.launch`.

Its watcher runs before anything large is imported. When the controller is gone, so is the rank:
the system kills it with the controller's thread, and the watcher ends it when its channel closes.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import select
import signal
import socket
import threading
from typing import Any

from glmc_runtime.engine.ranks.channel import Channel, ChannelClosedError

BEAT = 1.0  # seconds
_PR_SET_PDEATHSIG = 1


class Reporter:
    """What a rank says of itself; any thread may."""

    def __init__(self, watch: Channel) -> None:
        self._watch = watch
        self._lock = threading.Lock()
        threading.Thread(target=self._beat, name="glmc heartbeat", daemon=True).start()

    def say(self, **message: Any) -> None:
        with self._lock:
            self._watch.send(json.dumps(message).encode())

    def _beat(self) -> None:
        poll = select.poll()
        poll.register(self._watch.fileno(), select.POLLIN)
        try:
            while not poll.poll(BEAT * 1000):
                self.say(beat=1)
        except ChannelClosedError:
            pass
        os._exit(1)  # the controller never writes here: its end is closed


class Forwarder(logging.Handler):
    """Sends warnings to the controller, which logs them as its own."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.WARNING)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self._reporter.say(log=[record.levelno, record.name, record.getMessage()])


def main(numbers: str) -> None:
    """Run a rank; ``numbers`` are the controller's process and the descriptors of
    :func:`.launch.start`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    controller, steps, watch, *shared = map(int, numbers.split(","))
    _end_with(controller)
    for descriptor in (steps, watch, *shared):
        os.set_inheritable(descriptor, False)  # compilers that a rank starts keep nothing open
    reporter = Reporter(Channel(socket.socket(fileno=watch)))
    channel = Channel(socket.socket(fileno=steps))
    status = 0
    try:
        settings = json.loads(channel.receive())
        from glmc_runtime.engine.ranks.serve import serve

        serve(settings, channel, reporter, shared)
    except ChannelClosedError:
        status = 1
    except BaseException as error:  # noqa: BLE001 - the controller says it
        status = 1
        _report(reporter, error)
    os._exit(status)  # libraries of devices may wait for peers when they are taken apart


def _end_with(controller: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != controller:
        os._exit(1)


def _report(reporter: Reporter, error: BaseException) -> None:
    import contextlib
    import traceback

    from glmc_runtime.engine.ranks.reports import error_to_json
    from glmc_runtime.errors import GlmcError

    if not isinstance(error, GlmcError):
        traceback.print_exception(error)
    with contextlib.suppress(ChannelClosedError):
        reporter.say(error=error_to_json(error))
