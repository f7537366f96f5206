"""Errors of the emulated Kunlun vendor libraries.

`VendorCheckError` is what the real wheel raises (a ValueError whose text holds
"Check 0 == ret failed"); the other two exist only here and say what hardware would have kept quiet.
"""

from __future__ import annotations


class EmulatorError(Exception):
    """Five facts every error carries; `str(error)` prints them on separate lines."""

    code: str = "KLE-000"
    prefix: str = ""

    def __init__(self, place: str, *, expected: str, found: str, remedy: str = "") -> None:
        self.place = place
        self.expected = expected
        self.found = found
        self.remedy = remedy
        lines = [f"[{self.code}] {self.prefix}{place} (emulated)"]
        lines += [f"  expected: {expected}", f"  found:    {found}"]
        if remedy:
            lines.append(f"  remedy:   {remedy}")
        super().__init__("\n".join(lines))


class VendorCheckError(EmulatorError, ValueError):
    """The failure the real wheel reports: a kernel returned a non-zero code."""

    code = "KLE-001"
    prefix = "Check 0 == ret failed in "


class GuardError(EmulatorError, RuntimeError):
    """Guard mode only: a call the hardware would accept in silence and get wrong."""

    code = "KLE-002"
    prefix = "guard: "


class UnmodelledError(EmulatorError, NotImplementedError):
    """An argument or form whose meaning is not public, so the emulator will not guess."""

    code = "KLE-003"
    prefix = "not modelled: "
