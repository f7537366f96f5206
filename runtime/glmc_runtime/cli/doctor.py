"""``doctor``: check each vendor call on this machine."""

from __future__ import annotations

import json
from types import SimpleNamespace

from glmc_runtime.format.artifact_files import require_directory
from glmc_runtime.loading.progress import CHECKING, shown_progress
from glmc_runtime.printable import printable_lines


def doctor(options: SimpleNamespace) -> int:
    """Check; returns the exit status, 1 where a check failed."""
    require_directory(options.artifact)
    from glmc_runtime.doctor import examine

    with shown_progress(CHECKING) as progress:
        report = examine(
            options.artifact,
            verify_hashes=not options.no_verify,
            emulate=options.emulate,
            device=options.device,
            seed=options.seed,
            progress=progress,
        )
    if options.json:
        print(json.dumps(report.to_json()))
    else:
        print(printable_lines(report.text()))
    return 0 if report.passed else 1
