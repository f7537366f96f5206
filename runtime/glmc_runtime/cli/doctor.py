"""``doctor``: check each vendor call on this machine, and what several ranks need of it."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from glmc_runtime.errors import RequestError
from glmc_runtime.format.artifact_files import require_directory
from glmc_runtime.loading.progress import CHECKING, shown_progress
from glmc_runtime.printable import printable_lines

if TYPE_CHECKING:
    from glmc_runtime.doctor.ranks import RanksReport
    from glmc_runtime.doctor.report import Report

_LOG = logging.getLogger("glmc_runtime.device")


def doctor(options: SimpleNamespace) -> int:
    """Check; returns the exit status, 1 where a check failed."""
    if options.artifact is None and options.ranks is None:
        raise RequestError(
            "there is nothing to check",
            expected="an artifact, a number of ranks, or both",
            remedy="glmc-runtime doctor ARTIFACT, or glmc-runtime doctor --ranks 2",
        )
    report = None if options.artifact is None else _calls(options)
    ranks = _ranks(options, emulated=report is not None and report.emulated)
    passed = all(each.passed for each in (report, ranks) if each is not None)
    if options.json:
        found: dict[str, Any] = {} if report is None else report.to_json()
        probed = {} if ranks is None else {"ranks": ranks.to_json()}
        print(json.dumps({**found, **probed, "passed": passed}))
    else:
        texts = [each.text() for each in (report, ranks) if each is not None]
        print(printable_lines("\n".join(texts)))
    return 0 if passed else 1


def _calls(options: SimpleNamespace) -> Report:
    require_directory(options.artifact)
    from glmc_runtime.doctor import examine

    with shown_progress(CHECKING) as progress:
        return examine(
            options.artifact,
            verify_hashes=not options.no_verify,
            emulate=options.emulate,
            device=options.device,
            seed=options.seed,
            progress=progress,
        )


def _ranks(options: SimpleNamespace, *, emulated: bool) -> RanksReport | None:
    """The probes for as many ranks as were asked for, or as the artifact has."""
    from glmc_runtime.doctor.ranks import backend_here, backend_of, examine_ranks

    tell = partial(_LOG.info, "probe of %s")
    asked: dict[str, Any] = {"limit": options.probe_limit, "tell": tell}
    count, backend = options.ranks, options.backend
    if options.artifact is not None:
        from glmc_runtime.format.collectives import COLLECTIVES
        from glmc_runtime.format.collectives_json import read_table
        from glmc_runtime.loading.loader import listed_files

        manifest, files = listed_files(Path(options.artifact))
        count = manifest.ranks.count if count is None else count
        backend = backend or backend_of(manifest.target, emulated=emulated)
        asked["target"] = "" if emulated else manifest.target
        asked["dtype"] = manifest.dtype
        if COLLECTIVES in files:
            asked["table"] = read_table(files.take(COLLECTIVES))
        if options.ranks is None and count == 1:
            return None
    return examine_ranks(count, backend=backend or backend_here(count), **asked)
