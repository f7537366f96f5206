"""What a rank says to its controller beside its answers: that it is there, and what it has to warn
of."""

from __future__ import annotations

import json
import logging
import os
import select
import threading
from typing import Any

from glmc_runtime.engine.ranks.channel import Channel, ChannelClosedError

BEAT = 1.0  # seconds


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
