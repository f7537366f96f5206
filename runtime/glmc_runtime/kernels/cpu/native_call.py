"""Thunks of calls of the library of a decode step, by themselves or several as one call of C.

Calls of a step that follow each other are handed over together, as one list of what each is called
with (``native/calls.c``): that spares the Python between them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch

from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.cpu import decode_library
from glmc_runtime.kernels.cpu.decode_library import FUNCTIONS, KINDS, Record
from glmc_runtime.kernels.cpu.status import failure
from glmc_runtime.kernels.merging import Mergeable, Merged

_NUMBERS = {name: number for number, name in enumerate(FUNCTIONS)}


class _Operands(NamedTuple):
    """What a function is called with; pointers are those of ``tensors``, None for null. The first
    tensor is one of the dtype that it computes in."""

    function: str
    tensors: tuple[torch.Tensor | None, ...]
    longs: tuple[int, ...]
    floats: tuple[float, ...]


class _CallList:
    """Calls as C has them. A storage may be given other memory, so each run asks one tensor of each
    storage where it is, and where one has moved all pointers are written anew. A tensor must not be
    made a view of another storage (``set_``) while calls hold it: only a storage is watched."""

    __slots__ = ("_addresses", "_calls", "_failed", "_library", "_places", "_records", "_watched")

    def __init__(self, calls: Sequence[_Operands]) -> None:
        library = decode_library._library()
        assert library is not None  # who makes a call has asked whether the library serves it
        self._calls, self._library = calls, library
        self._records = (Record * len(calls))()
        for record, call in zip(self._records, calls, strict=True):
            record.longs[: len(call.longs)] = call.longs
            record.floats[: len(call.floats)] = call.floats
            first = call.tensors[0]
            assert first is not None
            record.function, record.kind = _NUMBERS[call.function], KINDS[first.dtype]
        self._watched: list[torch.Tensor] = []
        self._addresses: list[int] | None = None  # nothing was written yet
        self._failed = ctypes.c_long()
        self._places = ctypes.addressof(self._records), ctypes.addressof(self._failed)

    def run(self) -> None:
        self._failed.value = -1
        if [tensor.data_ptr() for tensor in self._watched] != self._addresses:
            self._point()
        records, failed = self._places
        count, threads = len(self._records), torch.get_num_threads()
        status = self._library.run_calls(records, count, threads, failed)
        if status:
            raise failure(self._calls[self._failed.value].function, status)

    @property
    def failed(self) -> int | None:
        """The call at which the last run ended; None where none of them failed."""
        return None if self._failed.value < 0 else self._failed.value

    def _point(self) -> None:
        of_storage: dict[int, torch.Tensor] = {}
        for record, call in zip(self._records, self._calls, strict=True):
            for place, tensor in enumerate(call.tensors):
                if tensor is not None:
                    record.pointers[place] = tensor.data_ptr()
                    of_storage.setdefault(tensor.untyped_storage()._cdata, tensor)
        self._watched = list(of_storage.values())
        self._addresses = [tensor.data_ptr() for tensor in self._watched]


class NativeCall(Mergeable):
    """A call of ``function`` with the addresses of ``tensors`` (None for null, the first of the
    dtype that is computed in) and then numbers, each kind in the order of the function in C.

    Raises MemoryError, and IndexError for an index beyond what it counts.
    """

    __slots__ = ("_alone", "_operands")

    def __init__(
        self,
        function: str,
        tensors: tuple[torch.Tensor | None, ...],
        longs: tuple[int, ...],
        floats: tuple[float, ...] = (),
    ) -> None:
        if (len(tensors), len(longs), len(floats)) != FUNCTIONS[function]:
            raise TypeError(f"{function} takes {FUNCTIONS[function]}")
        self._operands = _Operands(function, tensors, longs, floats)
        self._alone: _CallList | None = None

    def __call__(self) -> None:
        if self._alone is None:  # made late: one of several never runs by itself
            self._alone = _CallList((self._operands,))
        self._alone.run()

    @classmethod
    def merge(cls, thunks: tuple[NativeCall, ...]) -> NativeCalls:
        return NativeCalls(thunks)


class NativeCalls(Merged):
    """Several calls as one call of C."""

    __slots__ = ("_list", "calls")

    def __init__(self, calls: tuple[NativeCall, ...]) -> None:
        self.calls = calls
        self._list = _CallList([call._operands for call in calls])

    def __call__(self) -> None:
        self._list.run()

    @property
    def failed(self) -> Thunk | None:
        place = self._list.failed
        return None if place is None else self.calls[place]
