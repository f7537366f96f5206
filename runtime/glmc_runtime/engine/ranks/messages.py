"""What ranks are told, as bytes: numbers and names, nothing that is executed.

A step is a few numbers, its token ids, and of each row's blocks only those that came after the
ones that the row was last told of. So encoder and decoder remember the rows of a phase alike, and
every message must be decoded, in order. A decode step of 64 sequences takes about 3 KB, whatever
their length.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from glmc_runtime.errors import PlanError
from glmc_runtime.replay.step import ScheduledTokens, Step

_STEP = struct.Struct("<BBBqIIIII")
_PAIR = struct.Struct("<qq")
_NUMBERS = struct.Struct("<Bqq")
_NUMBER = struct.Struct("<Q")
# Of a chunk: its start, tokens, logits, blocks that the row keeps, and blocks that come after.
_CHUNK_NUMBERS = 5


class Kind(IntEnum):
    """What a message asks for. Steps and ``STATISTICS`` have one answer, that of rank 0, and
    ``END_TIMES`` one of each rank."""

    STOP = 0
    RUN = 1  # the logits of a step
    GREEDY = 2  # the likeliest tokens of a step
    LAUNCH = 3  # the same, for async decode
    FREE = 4  # a launcher of async decode is not used any longer
    COPY = 5  # a block of the cache is copied
    STATISTICS = 6  # the counts of rank 0
    BEGIN_TIMES = 7  # steps are timed from now on
    END_TIMES = 8  # they are not any longer; what was timed


@dataclass(frozen=True)
class StepMessage:
    """A step of the ``phase`` with this number; ``launcher`` and ``ahead`` are of async decode."""

    kind: Kind
    phase: int
    step: Step
    launcher: int = 0
    ahead: bool = False


@dataclass(frozen=True)
class Numbers:
    """A message of at most two numbers: a launcher, source and target of a copied block, the origin
    of times, or the number of the question for them."""

    kind: Kind
    first: int = 0
    second: int = 0


def numbered(number: int, answer: bytes) -> bytes:
    """An answer with the number of its question, from 0 on."""
    return _NUMBER.pack(number) + answer


def number_of(message: bytes) -> tuple[int, bytes]:
    """What :func:`numbered` was made of; raises :class:`PlanError`."""
    if len(message) < _NUMBER.size:
        raise PlanError("an answer of a rank is not well formed", found=f"{len(message)} bytes")
    return _NUMBER.unpack_from(message)[0], message[_NUMBER.size :]


class Encoder:
    """Writes messages. ``symbols`` are, for each phase, its sizes beside tokens and sequences."""

    def __init__(self, symbols: Sequence[Sequence[str]]) -> None:
        self._symbols = symbols
        self._rows: list[list[list[int]]] = [[] for _ in symbols]

    def step(
        self, kind: Kind, phase: int, step: Step, launcher: int = 0, ahead: bool = False
    ) -> bytes:
        """A step; with ``ahead`` its token ids are not looked at."""
        chunks, rows = step.chunks, self._rows[phase]
        rows.extend([] for _ in range(len(chunks) - len(rows)))
        numbers, tokens, blocks = array("q"), array("q"), array("i")
        for row, chunk in enumerate(chunks):
            old, new = rows[row], chunk.blocks
            kept = len(old)
            if old != new:
                if new[:kept] != old:
                    kept = 0
                blocks.extend(new[kept:])
                rows[row] = list(new)
            numbers.extend((chunk.start, len(chunk.tokens), chunk.logits, kept, len(new) - kept))
            if not ahead:
                tokens.extend(chunk.tokens)
        header = _STEP.pack(
            kind,
            phase,
            ahead,
            launcher,
            step.tokens,
            step.sequences,
            step.block_size,
            len(chunks),
            len(tokens),
        )
        sizes = [_PAIR.pack(step.sizes[name], step.real[name]) for name in self._symbols[phase]]
        return b"".join((header, *sizes, numbers.tobytes(), tokens.tobytes(), blocks.tobytes()))

    def forget(self) -> None:
        """What was written last may never be read: blocks of every row are told anew."""
        self._rows = [[] for _ in self._symbols]

    @staticmethod
    def numbers(kind: Kind, first: int = 0, second: int = 0) -> bytes:
        return _NUMBERS.pack(kind, first, second)


class Decoder:
    """Reads what an :class:`Encoder` of the same ``symbols`` wrote."""

    def __init__(self, symbols: Sequence[Sequence[str]]) -> None:
        self._symbols = symbols
        self._rows: list[list[list[int]]] = [[] for _ in symbols]

    def read(self, message: bytes | memoryview) -> StepMessage | Numbers:
        """Raises :class:`PlanError` for what no encoder writes."""
        try:
            kind = Kind(message[0])
            if kind in (Kind.RUN, Kind.GREEDY, Kind.LAUNCH):
                return self._step(kind, memoryview(message))
            return Numbers(kind, *_NUMBERS.unpack(message)[1:])
        except (struct.error, ValueError, IndexError, MemoryError) as error:
            raise PlanError(f"a message to a rank is not well formed: {error}") from error

    def _step(self, kind: Kind, message: memoryview) -> StepMessage:
        _, phase, ahead, launcher, rows, sequences, block_size, count, ids = _STEP.unpack_from(
            message
        )
        place = _STEP.size
        sizes: Mapping[str, tuple[int, int]] = {}
        for name in self._symbols[phase]:
            sizes = {**sizes, name: _PAIR.unpack_from(message, place)}
            place += _PAIR.size
        numbers, tokens, blocks = array("q"), array("q"), array("i")
        end = place + count * _CHUNK_NUMBERS * numbers.itemsize
        numbers.frombytes(message[place:end])
        tokens.frombytes(message[end : end + ids * tokens.itemsize])
        blocks.frombytes(message[end + ids * tokens.itemsize :])
        if (len(numbers), len(tokens)) != (count * _CHUNK_NUMBERS, ids):
            raise ValueError("it is cut short")
        known = self._rows[phase]
        known.extend([] for _ in range(count - len(known)))
        chunks: list[ScheduledTokens] = []
        first_id = first_block = 0
        for row in range(count):
            at = row * _CHUNK_NUMBERS
            start, length, logits, kept, new = numbers[at : at + _CHUNK_NUMBERS]
            own = known[row]
            if min(length, new) < 0 or kept not in (0, len(own)):
                raise ValueError(f"row {row} keeps {kept} of {len(own)} blocks")
            if kept != len(own) or new:
                # A list of its own: chunks of an earlier step may still be read.
                own = known[row] = own[:kept] + blocks[first_block : first_block + new].tolist()
                first_block += new
            part = array("q", bytes(8 * length)) if ahead else tokens[first_id : first_id + length]
            first_id += length
            chunks.append(ScheduledTokens(part, start, own, logits))
        if (0 if ahead else first_id, first_block) != (ids, len(blocks)):
            raise ValueError(f"it has {ids} tokens and {len(blocks)} blocks, and rows of others")
        step = Step(chunks, rows, sequences, block_size, sizes)
        return StepMessage(kind, phase, step, launcher, bool(ahead))
