"""What ``glmc align`` is asked to compare: records that are opened, and sides that are recorded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from glmc.cli.record_command import encoder_of
from glmc.cli.stages import stage_line
from glmc.errors import UsageError
from glmc_runtime.cli.artifact_runs import artifact_run
from glmc_runtime.cli.commands import RECORD
from glmc_runtime.command.options import Option
from glmc_runtime.format.artifact_files import MANIFEST
from glmc_runtime.record.flags import INPUT_OPTIONS, record_options
from glmc_runtime.record.keep import Keep
from glmc_runtime.record.options import RecordOptions

if TYPE_CHECKING:
    from glmc_runtime.loading.loader import Artifact
    from glmc_runtime.record.tensors import Record

FILE, ARTIFACT, CHECKPOINT = "record", "artifact", "checkpoint"
_OURS = ("--output", "--layers", "--modules")
OPTIONS = tuple(option for option in RECORD.options if option.flag not in _OURS)
"""Those of sides that are recorded on the spot."""


def kind_of(text: str) -> str:
    """What an argument names; what is none of ours is for the readers of records to say."""
    path = Path(text)
    if (path / MANIFEST).is_file():
        return ARTIFACT
    return CHECKPOINT if (path / "config.json").is_file() else FILE


def require_options(texts: tuple[str, str], options: SimpleNamespace) -> None:
    """Raise UsageError for options of recording where nothing is recorded."""
    used = _used(options, OPTIONS)
    if used and {kind_of(text) for text in texts} == {FILE}:
        raise UsageError(
            "both sides are records, and nothing is recorded",
            found=", ".join(used),
            remedy="leave it out",
        )


@contextmanager
def both_sides(
    texts: tuple[str, str], options: SimpleNamespace, *, silent: bool
) -> Iterator[tuple[Record, Record]]:
    """Open or record both. What is recorded computes the prompts and tokens of the other side, in
    a folder that is gone afterwards. Raises what reading and recording raise."""
    with tempfile.TemporaryDirectory(prefix="glmc-align-") as folder:
        sides = _Sides(texts, options, Path(folder), silent)
        first = sides.side(0)
        yield first, sides.side(1)


def _used(options: SimpleNamespace, some: Iterable[Option]) -> list[str]:
    return [each.flag for each in some if getattr(options, each.name) not in (each.default, None)]


class _Sides:
    """Records are opened at once: recording takes time, and a wrong path is no reason to wait."""

    def __init__(
        self, texts: tuple[str, str], options: SimpleNamespace, folder: Path, silent: bool
    ) -> None:
        from glmc.check.align.sides import side_of

        self._texts, self._options, self._silent = texts, options, silent
        self._kinds = [kind_of(text) for text in texts]
        self._files = [folder / "a.h5", folder / "b.h5"]
        self._keep, self._run = Keep.parse(options.keep), artifact_run(options)
        kinds = zip(texts, self._kinds, strict=True)
        self._opened = [side_of(text) if kind == FILE else None for text, kind in kinds]
        self._artifacts: dict[str, Artifact] = {}
        inputs = [flag for flag in _used(options, INPUT_OPTIONS) if flag != "--steps"]
        if inputs and any(map(_has_prompts, self._opened)):
            raise UsageError(
                "a side that is recorded computes the tokens of the record that it is compared "
                "with",
                found=", ".join(inputs),
                remedy="leave it out",
            )

    def side(self, number: int) -> Record:
        """A (0), or B (1) with the tokens of A."""
        text, kind, opened = self._texts[number], self._kinds[number], self._opened[number]
        if opened is not None:
            return opened
        if not self._silent:
            stage_line(f"recording {text}")
        from glmc.check.align.sides import side_of_artifact, side_of_checkpoint

        wanted, file = self._wanted(number), self._files[number]
        if kind == ARTIFACT:
            return side_of_artifact(self._artifact(text), file, wanted, self._keep, self._run)
        device, dtype = self._options.device or "cpu", self._dtype(1 - number)
        return side_of_checkpoint(Path(text), file, wanted, self._keep, dtype, device)

    def _wanted(self, number: int) -> RecordOptions:
        """All of a side, whatever is compared: routers decide about what is after them."""
        asked = {**vars(self._options), "layers": None, "modules": None}
        other = 1 - number
        if _has_prompts(self._opened[other]):
            asked["like"] = self._texts[other]
        elif number == 1 and self._kinds[0] != FILE:
            asked |= {"like": str(self._files[0]), "prompt": None, "ids": None}
        return record_options(SimpleNamespace(**asked), self._encode)

    def _dtype(self, other: int) -> str | None:
        """What the other side computed in, where that is known: a checkpoint is recorded in it."""
        opened = self._opened[other]
        if opened is not None:
            said = opened.facts.get("dtype")
            return said if isinstance(said, str) else None
        if self._kinds[other] == ARTIFACT:
            return self._artifact(self._texts[other]).manifest.dtype
        return None

    def _artifact(self, text: str) -> Artifact:
        from glmc_runtime.loading.loader import load_artifact

        if text not in self._artifacts:
            loaded = load_artifact(text, verify_hashes=not self._options.no_verify, rank=None)
            self._artifacts[text] = loaded
        return self._artifacts[text]

    def _encode(self, text: str) -> list[int]:
        """By the tokenizer of the checkpoint, or of the artifact where there is none."""
        sides = dict(zip(self._kinds, self._texts, strict=True))
        if CHECKPOINT in sides:
            return encoder_of(Path(sides[CHECKPOINT]))(text)
        from glmc_runtime.generate.text import Text

        return Text(self._artifact(sides[ARTIFACT]).files.below("tokenizer")).encode(text)


def _has_prompts(record: Record | None) -> bool:
    return record is not None and "prompts" in record.facts
