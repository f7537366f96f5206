"""Pack the weights of all ranks into their files, in one pass over the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from glmc.ir.recipe import Weight
from glmc.weights.hashed_file import HashedFile
from glmc.weights.safetensors_writer import TensorSpec, fill
from glmc.weights.source import WeightSource
from glmc.weights.stream import Piece, deal_weight
from glmc_runtime.format.manifest import FileEntry


@dataclass(frozen=True)
class PackProgress:
    """``tensor`` is the ``number``-th of ``count``; ``done`` of ``total`` bytes are written, those
    of all ranks together."""

    tensor: str
    number: int
    count: int
    done: int
    total: int


Progress = Callable[[PackProgress], None]


class Tally:
    """Counts tensors and bytes, of ``weights`` on ``ranks``, and tells of each step."""

    def __init__(self, weights: Sequence[Weight], ranks: int, progress: Progress) -> None:
        total = ranks * sum(weight.bytes for weight in weights)
        self.at = PackProgress("", 0, len(weights), 0, total)
        self._progress = progress

    def begins(self, tensor: str) -> None:
        self.at = replace(self.at, tensor=tensor, number=self.at.number + 1)

    def advance(self, size: int) -> None:
        self.at = replace(self.at, done=self.at.done + size)
        self._progress(self.at)


class Packer:
    """Streams every weight into the files of the ranks and counts the bytes.

    Files of a number are written side by side. Their last bytes go to the disk while the next ones
    are filled.
    """

    def __init__(
        self,
        weights: Sequence[Weight],
        source: WeightSource,
        ranks: int,
        chunk_bytes: int,
        tally: Tally,
    ) -> None:
        self.weights = {weight.name: weight for weight in weights}
        self.source = source
        self.ranks = ranks
        self.chunk_bytes = chunk_bytes
        self.tally = tally

    def write(self, root: Path, shards: Sequence[Sequence[TensorSpec]]) -> dict[str, FileEntry]:
        """Write the files below ``root``; returns them by name, all of them on the disk."""
        entries: dict[str, FileEntry] = {}
        ending: dict[str, HashedFile] = {}
        with ExitStack() as stack:
            for number, shard in enumerate(shards, 1):
                names = [shard_name(number, len(shards), rank, self.ranks) for rank in self._all]
                opened = {name: stack.enter_context(_created(root / name)) for name in names}
                fill(list(opened.values()), shard, self._stream, self.tally.advance)
                entries.update(_written(ending))
                ending = opened
            entries.update(_written(ending))
        return entries

    @property
    def _all(self) -> range:
        return range(self.ranks)

    def _stream(self, spec: TensorSpec) -> Iterator[Piece]:
        self.tally.begins(spec.name)
        return deal_weight(self.weights[spec.name], self.source, self.chunk_bytes, self.ranks)


def rank_folder(rank: int) -> str:
    return f"rank-{rank}"


def shard_name(number: int, count: int, rank: int, ranks: int) -> str:
    """The file of a rank that holds the ``number``-th of ``count`` parts of its weights."""
    folder = "weights" if ranks == 1 else f"weights/{rank_folder(rank)}"
    return f"{folder}/{number:05d}-of-{count:05d}.safetensors"


def _created(path: Path) -> HashedFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    return HashedFile(path)


def _written(files: dict[str, HashedFile]) -> dict[str, FileEntry]:
    found = {name: file.written() for name, file in files.items()}
    return {name: FileEntry(file.sha256, file.size) for name, file in found.items()}
