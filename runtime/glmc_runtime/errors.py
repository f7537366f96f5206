"""Every error a user of the runtime can meet, as a class with a stable code.

The text always answers five questions: which rule (code), where, what was expected, what was
found, and what to do about it. Names in it are written so that no terminal obeys them.
"""

from __future__ import annotations

from collections.abc import Iterable

from glmc_runtime.printable import printable, printable_lines


class Lines(str):
    """A detail of an error that stands on several lines; any other stands on one."""

    __slots__ = ()

    @classmethod
    def of(cls, texts: Iterable[str]) -> Lines:
        """One line for each text, set under the first; the lines of one that is some stay."""
        shown = (text if isinstance(text, Lines) else printable(text) for text in texts)
        return cls("\n             ".join(shown))


class GlmcError(Exception):
    """Base of all errors that glmc raises on purpose.

    ``code`` is stable between releases; scripts may test it. ``exit_status`` is what the command
    line returns: 2 for a request that can't be served, 1 for everything else. ``usual_remedy`` is
    shown where an error is raised without a remedy of its own.
    """

    code = "GLMC-0000"
    exit_status = 2
    usual_remedy = ""

    def __init__(
        self,
        message: str,
        *,
        place: str = "",
        expected: str = "",
        found: str = "",
        remedy: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.expected = expected
        self.found = found
        self.remedy = remedy or self.usual_remedy

    def __str__(self) -> str:
        lines = [f"[{self.code}] {_shown(self.message)}"]
        details = (
            ("where", self.place),
            ("expected", self.expected),
            ("found", self.found),
            ("remedy", self.remedy),
        )
        lines += [f"  {label + ':':<10}{_shown(text)}" for label, text in details if text]
        return "\n".join(lines)


def _shown(text: str) -> str:
    return printable_lines(text) if isinstance(text, Lines) else printable(str(text))


class ArtifactError(GlmcError):
    """The artifact is missing, half written, damaged, tampered with or of another format."""

    code = "GLMC-2001"
    usual_remedy = "copy the artifact again, complete and unchanged, or compile the model again"


class GuardError(GlmcError):
    """A guard of the artifact does not hold here: runtime, torch, device or vendor library."""

    code = "GLMC-2002"
    usual_remedy = "run it where the guards hold, or compile the model again for this machine"


class PlanError(GlmcError):
    """A plan names something that the runtime does not know or that contradicts itself."""

    code = "GLMC-2003"
    usual_remedy = "compile the model again with the glmc release of this glmc-runtime"


class RequestError(GlmcError):
    """A request can't be served: empty or overlong prompt, bad sampling option, bad token."""

    code = "GLMC-2004"


class CapacityError(GlmcError):
    """Memory is too small: KV blocks, cache or arena; or it ran out while a command ran."""

    code = "GLMC-2005"
    usual_remedy = "send fewer or shorter requests, or load with more kv_blocks"


class VendorError(GlmcError):
    """A vendor library lacks a function or keyword that the plan calls, or its call failed."""

    code = "GLMC-2006"
    usual_remedy = "run 'glmc-runtime doctor ARTIFACT', which tries every vendor call by itself"


class MissingPackageError(GlmcError):
    """An optional package that this request needs is not installed."""

    code = "GLMC-2007"
    usual_remedy = "install the package that is named"


class NumericsError(GlmcError):
    """The model's numbers are not usable: logits hold NaN or no finite value."""

    code = "GLMC-2008"
    exit_status = 1
    usual_remedy = "compare the model with its float32 compile, and look for damaged weights"


class FileError(GlmcError):
    """The system refused to read or write: a full disk under the output, a lost file."""

    code = "GLMC-2009"
    exit_status = 1
    usual_remedy = "check the disk, the path and its permissions"


class ExtensionError(GlmcError):
    """A pass, target or kernel that an installed distribution brings can't be used."""

    code = "GLMC-2010"
    usual_remedy = "see docs/writing_a_pass.md and docs/writing_a_target.md"


class RankError(GlmcError):
    """A rank of a group died, hangs, or holds something else than the others."""

    code = "GLMC-2011"
    exit_status = 1
    usual_remedy = "look at the log of the rank that is named, and start all ranks again"


class WeightsError(GlmcError):
    """The tensors that an engine's loader hands over are not those that the artifact is made of."""

    code = "GLMC-2012"
    usual_remedy = "name the checkpoint whose config.json was compiled, complete and unchanged"


class RecordError(GlmcError):
    """A record of tensors is missing, damaged, or of no format that is read."""

    code = "GLMC-2013"
    usual_remedy = "record again: glmc record SIDE --output FILE.h5"
