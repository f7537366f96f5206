"""The program of the process that renders chat templates.

A template is code that comes with a checkpoint. jinja2's sandbox keeps it away from Python, but
bounds neither its time nor its memory: loops nest, strings double, and a comparison of lists that
hold each other runs in C where nothing can look in. So it runs in a process of its own, to which
the kernel gives a limit of memory (RLIMIT_AS) and of processor time (a timer whose signal ends the
process, in C code too).

:mod:`glmc_runtime.generate.text.rendering` starts this file by its path: it imports jinja2 and the
standard library only, which takes a tenth of a second. A frame is its length in eight bytes and
then its content. A request is a template with its variables, as marshal writes them; a reply is
JSON, so that nothing that a template could make is more than text to the reader.
"""

from __future__ import annotations

import json
import marshal
import os
import signal
import sys
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

OUT_OF_MEMORY = 77  # exit status
CPU_SECONDS = 1.0
CPU_SECONDS_PER_BYTE = 1e-6  # of the request
MEMORY = 256 << 20
MEMORY_PER_BYTE = 16  # of the request
TEXT = 16 << 20
TEXT_PER_BYTE = 4  # of the request
_HELD = 256 << 20  # address space of this program, where the system does not say
_MESSAGE = 2000  # characters of an error that are told


def write_frame(stream: BinaryIO, content: bytes) -> None:
    """Write one frame."""
    stream.write(len(content).to_bytes(8, "big") + content)
    stream.flush()


def read_frame(stream: BinaryIO) -> bytes | None:
    """Read one frame; None where the stream has ended."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    content = stream.read(int.from_bytes(head, "big"))
    return content if len(content) == int.from_bytes(head, "big") else None


def serve(requests: BinaryIO, replies: BinaryIO) -> int:
    """Answer requests until there are no more; returns the exit status."""
    write_frame(replies, b"{}")  # jinja2 is there
    while (request := read_frame(requests)) is not None:
        bound(len(request))
        try:
            source, variables = marshal.loads(request)
            answer = json.dumps(_answer(source, variables, len(request))).encode()
        except MemoryError:
            return OUT_OF_MEMORY  # what is left of this process is not worth keeping
        unbound()
        write_frame(replies, answer)
    return 0


def bound(size: int) -> None:
    """Set the limits of one request of ``size`` bytes."""
    import resource

    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS + CPU_SECONDS_PER_BYTE * size)
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:  # /proc is not there
        resident = _HELD
    limit = resident + MEMORY + MEMORY_PER_BYTE * size
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with suppress(OSError, ValueError):  # another system than Linux may not have it
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def unbound() -> None:
    """Lift the limits: the next request is read, and this one's reply written, without."""
    import resource

    signal.setitimer(signal.ITIMER_PROF, 0)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _answer(source: str, variables: dict[str, Any], size: int) -> dict[str, str]:
    try:
        template = compiled(source)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - jinja2's own, and what Python's compiler raises
        return {"stage": "template", "error": said(error)}
    try:
        text: str = template.render(variables)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a template can raise any
        stage = "refusal" if isinstance(error, _refusal()) else "messages"
        return {"stage": stage, "error": said(error)}
    if len(text) > TEXT + TEXT_PER_BYTE * size:
        return {"stage": "length", "error": f"{len(text)} characters"}
    return {"text": text}


def said(error: Exception) -> str:
    """An error in words, with its line where it has one."""
    try:
        text = str(error.msg if isinstance(error, SyntaxError) else error)[:_MESSAGE]
    except Exception:  # noqa: BLE001 - the message may be any object of the template
        text = ""
    # That of Python's own compiler is a line of what jinja2 generated.
    line = None if isinstance(error, SyntaxError) else getattr(error, "lineno", None)
    where = f" (line {line})" if isinstance(line, int) else ""
    name = type(error).__name__
    own = name in ("TemplateError", "TemplateSyntaxError", "SecurityError", "RefusalError")
    return f"{text if own and text else f'{name}: {text}'.rstrip(': ')}{where}"


@lru_cache
def _refusal() -> type[Exception]:
    from jinja2 import TemplateError

    class RefusalError(TemplateError):  # type: ignore[misc]
        """What a template raises by ``raise_exception``."""

    return RefusalError


@lru_cache(maxsize=8)
def compiled(source: str) -> Any:
    """A template in the environment that chat templates are written for: that of transformers."""
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):  # type: ignore[misc]
        """``{% generation %}`` marks what the model says, for training; here it is only a block."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            block = nodes.CallBlock(self.call_method("said"), [], [], body)
            return block.set_lineno(line)

        def said(self, caller: Any) -> Any:
            return caller()

    class PublicNamespace(Namespace):  # type: ignore[misc]
        """jinja2's, without names that begin with an underscore."""

        def __init__(*values: Any, **named: Any) -> None:
            own, *given = values
            scope = dict(*given, **named)
            for name in scope:
                _public(name)
            Namespace.__init__(own, scope)

        def __setitem__(self, name: str, value: Any) -> None:
            _public(name)
            super().__setitem__(name, value)

    def _public(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace can't have the attribute {name!r}")

    class Dict:
        """``dict`` without what the class itself leads to."""

        def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
            return dict(*values, **named)

        def fromkeys(self, *values: Any) -> dict[Any, Any]:
            return dict.fromkeys(*values)

    def raise_exception(message: Any) -> None:
        raise _refusal()(message)

    def strftime_now(form: str) -> str:
        return datetime.now().strftime(form)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = to_json
    environment.globals.update(
        raise_exception=raise_exception,
        strftime_now=strftime_now,
        dict=Dict(),
        namespace=PublicNamespace,
    )
    return environment.from_string(source)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter as transformers has it: no escapes for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def main(folders: list[str]) -> int:
    """Serve on the standard streams; ``folders`` hold jinja2 and what it needs."""
    import resource

    sys.path += folders  # after the standard library, which a folder of packages may hide
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt ends
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    import jinja2.ext
    import jinja2.sandbox  # noqa: F401 - before a limit is set

    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
