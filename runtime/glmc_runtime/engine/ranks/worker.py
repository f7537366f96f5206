"""The process of a rank that a controller has started; see :mod:`.launch`.

Its watcher runs before anything large is imported. When the controller is gone, so is the rank:
the system kills it with the controller's thread, and the watcher ends it when its channel closes.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
from importlib import import_module

from glmc_runtime.engine.ranks.channel import Channel, ChannelClosedError
from glmc_runtime.engine.ranks.reporter import Reporter

_PR_SET_PDEATHSIG = 1


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
        module, _, name = settings["task"].partition(":")
        getattr(import_module(module), name)(settings, channel, reporter, shared)
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
