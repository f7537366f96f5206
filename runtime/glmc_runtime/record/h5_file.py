"""A record as an HDF5 file in torch_xray's layout, written while the run goes on.

A group for each step, named by its number, and in it a dataset for each key, in order of execution;
tensor_key.py has the grammar of the keys, h5_dataset.py the attributes, which are ours. The file
appears whole or not at all. It holds no times: the same run makes the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from glmc_runtime.errors import FileError, RecordError, RequestError
from glmc_runtime.format.tensor_key import TensorKey
from glmc_runtime.package.constants import __version__
from glmc_runtime.record.h5_dataset import H5Dataset, line_of, plain
from glmc_runtime.record.h5_facts import TOOL, facts_of_file
from glmc_runtime.record.keep import Keep
from glmc_runtime.record.packages import import_h5py
from glmc_runtime.record.sink import Part
from glmc_runtime.record.summary_csv import SummaryCsv, SummaryLine, is_summary, summary_path

# Attributes of more than 64 KiB, such as long prompts, need it; HDF5 1.10 and newer read it.
_FORMAT = ("v110", "v110")


class H5File:
    """A :class:`~glmc_runtime.record.sink.Sink`; leaving the context writes the rest and renames.

    Raises :class:`RequestError` for a path that can't be written, :class:`MissingPackageError` and,
    while it writes, :class:`FileError`.
    """

    def __init__(self, path: str | os.PathLike[str], keep: Keep | None = None, rank: int = 0):
        self._h5py = import_h5py()
        self.path, self._keep, self._rank = Path(path), keep or Keep(), rank
        self.count = 0
        self._lengths: tuple[int, ...] = ()
        self._step: int | None = None
        self._written: dict[str, H5Dataset] = {}  # of this step, by first name
        self._lines: dict[str, str | SummaryLine] = {}  # by each name; a first name, or a line
        require_record_place(self.path)
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._partial_summary = self._partial.with_suffix(".csv")
        self._open = ExitStack()

    def __enter__(self) -> H5File:
        with self._refused():
            made = self._h5py.File(self._partial, "w", track_order=True, libver=_FORMAT)
            self._file = self._open.enter_context(made)
            summary = SummaryCsv(self._partial_summary, self._rank)
            self._summary = self._open.enter_context(summary)
        self.describe({"tool": TOOL, "version": __version__})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                with self._refused(RuntimeError):
                    self._finish_step()
                    self._open.close()
                    os.replace(self._partial_summary, summary_path(self.path))
                    os.replace(self._partial, self.path)
        finally:
            with suppress(OSError, RuntimeError):  # of a file that is thrown away
                self._open.close()
            self._partial.unlink(missing_ok=True)
            self._partial_summary.unlink(missing_ok=True)

    def describe(self, facts: Mapping[str, Any]) -> None:
        with self._refused():
            for name, value in facts.items():
                self._file.attrs[name] = plain(value)

    def begin(self, step: int, lengths: Sequence[int]) -> None:
        with self._refused():
            self._finish_step()
            self._step, self._lengths = step, tuple(lengths)
            self._group = self._file.create_group(str(step), track_order=True)

    def write(
        self,
        keys: Sequence[TensorKey],
        tensor: Tensor,
        facts: Mapping[str, Any],
        part: Part | None = None,
    ) -> None:
        name, *others = map(str, keys)
        with self._refused():
            dataset = self._written.get(name) if part is not None else None
            if dataset is None:
                shape = tensor.shape if part is None else part.whole(tensor.shape)
                dataset = H5Dataset(
                    self._h5py, self._group, name, shape, tensor.dtype, self._keep, self._lengths
                )
                self._written[name], self._lines[name] = dataset, name
                self.count += 1
                for other in others:
                    self._group[other] = self._group[name]
                    self._lines[other] = name
            dataset.add(tensor, facts, part)
            if part is None:
                dataset.finish()

    def link(self, key: TensorKey, step: int, written: TensorKey) -> None:
        with self._refused():
            self._group[str(key)] = data = self._file[str(step)][str(written)]
            if step == self._step:
                self._lines[str(key)] = self._lines[str(written)]
            else:
                self._lines[str(key)] = line_of(data.attrs)

    def _finish_step(self) -> None:
        """Write what is left of the step's attributes, and its lines of the summary."""
        for dataset in self._written.values():
            dataset.finish()
        for key, line in self._lines.items():
            if isinstance(line, SummaryLine):
                self._summary.add(self._step or 0, key, line)
            elif self._written[line].complete:
                self._summary.add(self._step or 0, key, self._written[line].line)
            else:  # some sequences had no such tensor: the others' rows alone would mislead
                del self._group[key]
                self.count -= key == line
        self._written, self._lines = {}, {}

    @contextmanager
    def _refused(self, kind: type[Exception] = OSError) -> Iterator[None]:
        """What the system refuses, as an error of ours; h5py has only words for it."""
        try:
            yield
        except (OSError, kind) as error:
            words = getattr(error, "strerror", None) or error
            raise FileError(
                f"the record can't be written: {words}", place=str(self.path)
            ) from error


def require_record_place(path: Path) -> None:
    """Raise :class:`RequestError` where no record can be written, or something else is there."""
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise RequestError(
            "the record can't be written",
            place=str(path),
            expected="a file in a folder that exists",
            remedy="--output FILE.h5",
        )
    for there, ours in ((path, _is_record), (summary_path(path), is_summary)):
        if not there.exists() or ours(there):
            continue
        raise RequestError(
            "the file exists and is no record of ours",
            place=str(there),
            expected="a new file, or a record that glmc wrote",
            remedy="--output another.h5",
        )


def _is_record(path: Path) -> bool:
    try:
        return facts_of_file(path).get("tool") == TOOL
    except RecordError:
        return False
