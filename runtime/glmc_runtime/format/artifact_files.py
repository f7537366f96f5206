"""Files of an artifact: plain files only, bounded before they are read, hashed as they are read.

The bytes of a small file come from the very read that hashed them. Weights are too large to keep,
so the :class:`FileState` of what was hashed is compared with that of what is mapped or copied.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.manifest import FileEntry
from glmc_runtime.format.side_by_side import side_by_side

MANIFEST = "manifest.json"
TIMES = "times.json"
"""The one file that may be there unlisted: times differ from run to run."""
MANIFEST_BYTES = 16 << 20
# The largest file of each folder that is read whole. For a model of 92 layers the manifest takes
# 0.2 MiB, a plan 1.6 MiB, a tokenizer 20 MiB, the history 0.8 MiB and the table of values 1.5 MiB.
_LARGEST = {"plans": 64 << 20, "tokenizer": 256 << 20}
_LARGEST_OTHER = 128 << 20
_PIECE = 1 << 22
_LARGE = 64 << 20  # bytes of a file that is worth a thread
# A folder in which an artifact grows, or into which a replaced one was moved to be removed.
_UNFINISHED = re.compile(r"\..*\.(partial|replaced)-")
_KINDS = (
    (stat.S_ISLNK, "link"),
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISDIR, "directory in the place of a file"),
    (stat.S_ISBLK, "device"),
    (stat.S_ISCHR, "device"),
)
# A name that became a link or a pipe since it was looked at is neither followed nor waited for.
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class FileState:
    """What of a file changes when its bytes do. ``kept`` are owner, mode and number of names:
    a change of these moves ``changed`` as well."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int
    kept: tuple[int, ...]

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        kept = (status.st_nlink, status.st_mode, status.st_uid, status.st_gid)
        identity = (status.st_dev, status.st_ino, status.st_size)
        return cls(*identity, status.st_mtime_ns, status.st_ctime_ns, kept)

    def holds(self, later: FileState) -> bool:
        """Whether nobody has touched the file that is now ``later``."""
        return self.changed == later.changed and self._looks_like(later)

    def may_hold(self, later: FileState) -> bool:
        """Whether a new mode, owner or name can be all that happened. Bytes may have been written
        besides, and the time put back: only a hash tells."""
        return self.kept != later.kept and self._looks_like(later)

    def _looks_like(self, later: FileState) -> bool:
        mine = (self.device, self.inode, self.size, self.modified)
        return mine == (later.device, later.inode, later.size, later.modified)


def is_unfinished(path: Path) -> bool:
    """Whether a directory has the name of one that the compiler writes to and renames, or moves
    the old artifact to: what is left of them when a compile is killed is nobody's artifact."""
    return _UNFINISHED.match(os.path.basename(os.path.realpath(path))) is not None


class ArtifactFiles:
    """The files that a manifest lists, below ``root``."""

    def __init__(self, root: Path, entries: Mapping[str, FileEntry]) -> None:
        self.root = root
        self._entries = entries
        self._bytes: dict[str, bytes] = {}
        self._hashed: dict[str, FileState] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def read(self, name: str, *, compare: bool = False) -> bytes:
        """The bytes of a listed file: those that were hashed, where hashes were compared.

        ``compare`` compares the hash where that has not been done. Raises ArtifactError.
        """
        if name in self._bytes:
            return self._bytes[name]
        entry = self._entries[name]
        check_size(name, entry.size)
        with plain_file(self.root, name) as (descriptor, found):
            require_size(name, entry.size, found.st_size)
            data = b"".join(_pieces(name, descriptor, entry.size))
        if compare and hashlib.sha256(data).hexdigest() != entry.sha256:
            raise changed(name, entry.sha256)
        return data

    def take(self, name: str) -> bytes:
        """As :meth:`read`, for the last time: the bytes are not kept any longer."""
        data = self.read(name)
        self._bytes.pop(name, None)
        return data

    def below(self, folder: str) -> Mapping[str, bytes]:
        """The files of a folder by their names in it, each read when it is asked for."""
        return _Below(self, f"{folder}/", list(self._entries))

    def hash_all(
        self,
        kept: Callable[[str], bool],
        progress: Progress | None = None,
        skip: Collection[str] = (),
    ) -> None:
        """Compare every hash but those of ``skip``; the bytes of the files that ``kept`` chooses
        are handed out later.

        ``progress`` is called with the bytes read and those of all files. Raises ArtifactError.
        """
        entries = {name: each for name, each in self._entries.items() if name not in skip}
        total, done = sum(entry.size for entry in entries.values()), 0

        def told(size: int) -> None:
            nonlocal done
            done += size
            if progress is not None:
                progress(done, total)

        # Small files are read before a thread would have begun.
        for large in (False, True):
            names = sorted(name for name in entries if (entries[name].size > _LARGE) is large)
            side_by_side(
                names,
                lambda name, tell: self._hash(name, kept(name), tell),
                told,
                None if large else 1,
            )

    def _hash(self, name: str, keep: bool, read: Callable[[int], object]) -> None:
        entry, digest, pieces = self._entries[name], hashlib.sha256(), []
        with plain_file(self.root, name) as (descriptor, found):
            require_size(name, entry.size, found.st_size)
            for piece in _pieces(name, descriptor, entry.size):
                digest.update(piece)
                if keep:
                    pieces.append(piece)
                read(len(piece))
        if digest.hexdigest() != entry.sha256:
            raise changed(name, entry.sha256)
        self._hashed[name] = FileState.of(found)
        if keep:
            self._bytes[name] = b"".join(pieces)

    def compared_hash(self, name: str) -> str | None:
        """The sha256 that the file was found to have; None where hashes were not compared."""
        return self._entries[name].sha256 if name in self._hashed else None

    @contextmanager
    def hashed_file(self, name: str) -> Iterator[tuple[int, FileState]]:
        """A descriptor of the file whose hash was compared, and its state; unchanged since then
        when the block begins and when it ends, else ArtifactError."""
        with plain_file(self.root, name) as (descriptor, found):
            before = FileState.of(found)
            require_size(name, self._entries[name].size, before.size)
            if not self._hashed.get(name, before).holds(before):
                raise _moved(name)
            try:
                yield descriptor, before
            except Exception as error:
                if not before.holds(FileState.of(os.fstat(descriptor))):
                    raise _moved(name) from error  # and that is why
                raise
            if not before.holds(FileState.of(os.fstat(descriptor))):
                raise _moved(name)


class _Below(Mapping[str, bytes]):
    def __init__(self, files: ArtifactFiles, prefix: str, names: list[str]) -> None:
        self._files, self._prefix = files, prefix
        self._names = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        return self._files.read(f"{self._prefix}{name}")

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def require_directory(path: str | Path) -> None:
    """Raise ArtifactError unless it is a directory."""
    root = Path(path)
    try:
        there = root.is_dir()
    except OSError as error:  # a path too long
        raise unreadable(root, error) from error
    if not there:
        raise ArtifactError(
            "there is no such artifact directory",
            place=str(root),
            remedy="pass a directory written by 'glmc compile'",
        )


def read_manifest(root: Path) -> bytes:
    """The bytes of ``manifest.json``; raises ArtifactError, also for what is no plain file."""
    with plain_file(root, MANIFEST) as (descriptor, found):
        check_size(MANIFEST, found.st_size)
        return b"".join(_pieces(MANIFEST, descriptor, found.st_size))


@contextmanager
def plain_file(root: Path, name: str) -> Iterator[tuple[int, os.stat_result]]:
    """A descriptor of a regular file and what the system says of it; raises ArtifactError for
    anything else, before it is opened where that is known."""
    path = root / name
    try:
        require_plain(name, path.lstat().st_mode)
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError as error:
        remedy = "the compile did not finish or this is no artifact: compile again"
        if name == MANIFEST and (root / "config.json").is_file():
            remedy = f"compile it, it is a checkpoint: 'glmc compile {root} --output ARTIFACT'"
        raise ArtifactError(f"{name} is missing", place=str(root), remedy=remedy) from error
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        status = os.fstat(descriptor)
        require_plain(name, status.st_mode)
        yield descriptor, status
    finally:
        os.close(descriptor)


def require_plain(name: str, mode: int) -> None:
    """Raise ArtifactError for a link, which leads elsewhere, and for what is not read to an end."""
    if stat.S_ISREG(mode):
        return
    kind = next((word for is_kind, word in _KINDS if is_kind(mode)), "special file")
    raise ArtifactError(f"the artifact holds a {kind}", place=name, expected="plain files")


def check_size(name: str, size: int) -> None:
    """Raise ArtifactError for a file, weights aside, that no artifact has so large."""
    if size > largest_size(name):
        raise _too_large(name, largest_size(name), size)


def largest_size(name: str) -> int:
    """Bytes that a file of an artifact may have, if it is none of weights."""
    if name == MANIFEST:
        return MANIFEST_BYTES
    return _LARGEST.get(name.partition("/")[0], _LARGEST_OTHER)


def require_size(name: str, expected: int, size: int) -> None:
    """Raise ArtifactError for a file that is not as large as the manifest says."""
    if size != expected:
        raise ArtifactError(
            "a file has another size than when it was written",
            place=name,
            expected=f"{expected} bytes",
            found=f"{size} bytes",
            remedy="copy the artifact again",
        )


def _pieces(name: str, descriptor: int, size: int) -> Iterator[bytes]:
    """The first ``size`` bytes, which must be all: a file may grow or shrink while it is read."""
    left = size
    while True:
        try:
            piece = os.read(descriptor, min(_PIECE, left + 1))
        except OSError as error:
            raise unreadable(Path(name), error) from error
        if not piece:
            break
        left -= len(piece)
        if left < 0:
            break
        yield piece
    if left:
        raise _moved(name)


def sha256_of(path: Path, read: Callable[[int], object] | None = None) -> str:
    """Hexadecimal sha256 of a plain file; raises :class:`ArtifactError`.

    The file is read in pieces, and ``read`` is called with the size of each.
    """
    digest = hashlib.sha256()
    with plain_file(path.parent, path.name) as (descriptor, found):
        for piece in _pieces(path.name, descriptor, found.st_size):
            digest.update(piece)
            if read is not None:
                read(len(piece))
    return digest.hexdigest()


def changed(name: str, expected: str) -> ArtifactError:
    """The error of a file with another hash."""
    return ArtifactError(
        f"{name} was changed after it was written: its sha256 differs",
        place=name,
        expected=expected,
        remedy="copy the artifact again, or compile again with --force",
    )


def _moved(name: str) -> ArtifactError:
    return ArtifactError(
        "a file changed while the artifact was loaded",
        place=name,
        expected="the same size, time and inode before and after",
        remedy="load it again once nothing writes to it; replace it as a whole, by a rename",
    )


def _too_large(name: str, largest: int, size: int) -> ArtifactError:
    return ArtifactError(
        "a file is larger than any of its kind",
        place=name,
        expected=f"at most {largest} bytes",
        found=f"{size} bytes",
        remedy="do not use this artifact: it was made or changed by something else",
    )


def unreadable(path: Path, error: OSError) -> ArtifactError:
    """The error of a file that the system does not let us read."""
    return ArtifactError(
        f"{path.name} can't be read: {error.strerror or error}",
        place=str(path),
        remedy="check the disk and the file's permissions",
    )
