"""Own and inherited error in ``glmc align``: told where B is an artifact that can be compiled
again, and said once where not; and the test that is written of what differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shlex import quote
from types import SimpleNamespace
from typing import TYPE_CHECKING

from glmc.cli.align_sides import ARTIFACT, CHECKPOINT, FILE, kind_of
from glmc.cli.say import say
from glmc.cli.stages import is_silent, stage_line
from glmc.errors import UsageError
from glmc.plain_file import begins_with
from glmc_runtime.cli.artifact_runs import artifact_run
from glmc_runtime.errors import CapacityError

if TYPE_CHECKING:
    from glmc.check.align.aligned_step import Wanted
    from glmc.check.align.calls_beside import CallsBeside
    from glmc.check.align.result import Alignment
    from glmc_runtime.record.tensors import Record

LEFT_OUT = "own error is left out (--no-own)"
_WITHOUT = {FILE: "a record", CHECKPOINT: "a checkpoint"}


def require_checkpoint(text: str | None) -> None:
    """Raise UsageError where what B was compiled from is no checkpoint."""
    if text is not None and not (Path(text) / "config.json").is_file():
        raise UsageError(
            "there is no checkpoint that B could have been compiled from",
            place=text,
            expected="a directory with config.json",
            found="no config.json" if Path(text).is_dir() else "no such directory",
            remedy="--checkpoint DIR, with the directory that glmc compile was given",
        )


def require_test_place(path: Path, b: str, *, no_own: bool) -> None:
    """Raise UsageError where B has no calls or they are not run, and for a file that can't be a
    test of ours."""
    from glmc.check.align.op_test_text import MARKED_WITHIN, MARKER

    if no_own:
        raise UsageError(
            "a test is of calls that are wrong by themselves",
            place="--test",
            found="--no-own, which does not run them",
            remedy="leave one of the two out",
        )
    if kind_of(b) != ARTIFACT:
        raise UsageError(
            "a test is of the calls of an artifact",
            place="--test",
            found=f"B is {_WITHOUT[kind_of(b)]}",
            remedy="glmc align A ARTIFACT",
        )
    if not path.resolve().parent.is_dir():
        raise UsageError("the folder of the test is not there", place=str(path), remedy="make it")
    if path.exists() and not begins_with(path, MARKER, MARKED_WITHIN):
        raise UsageError(
            "the file exists and is no test of ours",
            place=str(path),
            expected="a new file, or one that glmc align wrote",
            remedy="--test another.py",
        )


class OwnErrors:
    """Of B, whose calls run beside the reference A. Where a ``test`` is asked for it is an error
    when they can't be told, and else a remark."""

    def __init__(
        self,
        texts: tuple[str, str],
        options: SimpleNamespace,
        test: Path | None,
        *,
        as_json: bool,
        left_out: bool = False,
    ) -> None:
        self._texts, self._options, self._as_json = texts, options, as_json
        self._left_out = left_out
        self._test = test
        self._text, self._op = "", ""
        self._refused: UsageError | None = None

    def fill(self, compared: Alignment, reference: Record, wanted: Wanted) -> Alignment:
        """The alignment with own and inherited error, or with the reason why not. Raises what
        loading the artifact and compiling it again raise."""
        from glmc.check.align.rebuilt import UNKNOWN
        from glmc.check.align.whose import with_own_errors

        if self._left_out:
            return replace(compared, remarks=(*compared.remarks, LEFT_OUT))
        kind = kind_of(self._texts[1])
        if kind != ARTIFACT:
            words = f"own error is unknown: B is {_WITHOUT[kind]}, and calls are run of an artifact"
            return replace(compared, remarks=(*compared.remarks, words))
        if not is_silent(self._as_json):
            stage_line(f"running the calls of {self._texts[1]} beside what is expected")
        try:
            calls = self._beside(reference)
            own = calls.own_errors()
        except (CapacityError, UsageError) as error:
            if self._test is not None:
                raise
            remedy = f" ({error.remedy})" if error.remedy else ""
            reason = error.message.removeprefix(UNKNOWN)
            words = f"own error is unknown: {reason}{remedy}"
            return replace(compared, remarks=(*compared.remarks, words))
        filled = with_own_errors(compared, own, wanted)
        row = filled.first_own
        if self._test is not None and row is not None:
            try:
                self._text, self._op = calls.test(row), row.op
            except UsageError as error:  # after what was found is said
                self._refused = error
        return filled

    def write_test(self) -> None:
        """The test that was asked for, where a value's calls are wrong; what was written is said,
        on stderr where stdout has JSON. Raises UsageError where no test of the op alone shows what
        is wrong."""
        path = self._test
        if self._refused is not None:
            raise self._refused
        if path is None:
            return
        if not self._text:
            self._say(f"No call differs by itself: {path} is not written.")
            return
        try:
            path.write_text(self._text, encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"the test can't be written: {error.strerror}",
                place=str(path),
                remedy="--test FILE.py",
            ) from error
        from glmc.check.align.op_test_text import RUN

        self._say(
            f"{path} written: pytest fails on it until {self._op} is right.\n"
            f"Run it where pytest is installed: {RUN} {quote(str(path))}\n"
            "It has the calls as they were compiled: after a mend of the compile write it anew."
        )

    def _say(self, text: str) -> None:
        say(text, err=self._as_json)

    def _beside(self, reference: Record) -> CallsBeside:
        from glmc.check.align.calls_beside import calls_beside
        from glmc_runtime.loading.loader import load_artifact

        artifact = load_artifact(self._texts[1], verify_hashes=False)
        model = Path(self._texts[0]) if kind_of(self._texts[0]) == CHECKPOINT else None
        return calls_beside(reference, artifact, artifact_run(self._options).load, model)
