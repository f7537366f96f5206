"""Files that an option of a command names."""

from __future__ import annotations

import errno
from pathlib import Path

from glmc_runtime.errors import RequestError

# What a mistyped name comes to; anything else that the system refuses is no fault of the request.
_OF_THE_NAME = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ENAMETOOLONG,
        errno.ELOOP,
    }
)


def text_of_file(flag: str, file: str) -> str:
    """The UTF-8 text of the file that an option names; raises :class:`RequestError` where there is
    none to read under this name, and OSError where a disk fails."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{flag} is no UTF-8 text: {error}", place=file, remedy="write the file as UTF-8"
        ) from error
    except OSError as error:
        if error.errno not in _OF_THE_NAME:
            raise
        raise RequestError(
            f"{flag} can't be read: {error.strerror}",
            place=file,
            expected="a file that can be read",
            remedy=f"name one: {flag} FILE",
        ) from error
