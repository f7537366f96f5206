"""``python -m glmc_engines.surface``: whether a release of an engine has what our adapter uses."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from glmc_engines.surface.adapters import HERE, adapter_uses
from glmc_engines.surface.engines import Spec, release
from glmc_engines.surface.lookup import Lookup
from glmc_engines.surface.release import Release, Sources
from glmc_engines.surface.text import change_lines, changes_json, verdict_lines, verdicts_json
from glmc_engines.surface.uses import Use
from glmc_engines.surface.verdict import Verdict, changes, judge, lacking
from glmc_runtime.errors import GlmcError, RequestError
from glmc_runtime.printable import printable_lines

PROGRAM = "python -m glmc_engines.surface"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(message, remedy=f"see '{PROGRAM} --help'")


def main(words: Sequence[str]) -> int:
    """Exit status 0 where nothing that is needed is missing, 1 where something is, 2 for a request
    that can't be served."""
    try:
        return _run(_parser().parse_args(words))
    except GlmcError as error:
        print(error, file=sys.stderr)
        return error.exit_status


def read_release(uses: Sequence[Use], found: Release) -> list[Verdict]:
    """The verdict on each row, from the sources of a release."""
    return judge(Lookup(Sources(found)), uses)


def _run(options: argparse.Namespace) -> int:
    spec = Spec.parse(options.release)
    uses = adapter_uses(spec.name, options.adapters)
    found = release(spec, options.cache)
    verdicts = read_release(uses, found)
    older, changed = None, []
    if options.against is not None:
        other = Spec.parse(options.against)
        if other.name != spec.name:
            raise RequestError(
                "two releases of one engine can be compared",
                expected=f"--against {spec.name}==VERSION",
                found=options.against,
            )
        older = release(other, options.cache)
        changed = changes(read_release(uses, older), verdicts)
    if options.json:
        told = {
            "engine": found.name,
            "version": found.version,
            "against": older.version if older is not None else None,
            "names": verdicts_json(verdicts),
            "changes": changes_json(changed),
        }
        print(json.dumps(told, indent=1))
    else:
        lines = verdict_lines(str(found), verdicts, every=options.all)
        if older is not None:
            lines += ["", *change_lines(f"{older} -> {found}", changed)]
        print(printable_lines("\n".join(lines)))
    return 1 if lacking(verdicts) else 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Read the sources of an engine's release for the names, parameters and"
        " attributes that our adapter uses. Nothing of the release is imported.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "release",
        metavar="RELEASE",
        help="vllm for the one that is installed here, vllm==VERSION, which is downloaded where it"
        " is not, or vllm@FOLDER.",
    )
    parser.add_argument(
        "--against", metavar="RELEASE", help="An older release: say what changed since then."
    )
    parser.add_argument("--all", action="store_true", help="Show what fits as well.")
    parser.add_argument("--json", action="store_true", help="One JSON object on stdout.")
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        type=Path,
        default=Path(".engines") / "releases",
        help="Where sources of downloaded releases are kept (default: %(default)s).",
    )
    parser.add_argument(
        "--adapters",
        metavar="FOLDER",
        type=Path,
        default=HERE,
        help="The adapters (default: ours).",
    )
    return parser
